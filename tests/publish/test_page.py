"""The page for people: its facts, its policy, and how it works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.index_wheels import NATIVE, OLDER_CUDA, UNIVERSAL_ARM, make_ours, write_report, write_site
from fakes.static_server import StaticServer

from builder.finish.store import record_path
from builder.util.files import file_sha256


def test_the_page_lists_every_wheel(wheelhouse: Path, tmp_path: Path) -> None:
    write_report(wheelhouse / NATIVE)
    make_ours(wheelhouse, OLDER_CUDA, verified=False)
    (arm,) = make_ours(wheelhouse, UNIVERSAL_ARM)
    record_path(arm).write_text('{"checks": ["record"]}')
    page = (write_site(wheelhouse, tmp_path / "site") / "index.html").read_text()
    for wheel in wheelhouse.glob("*.whl"):
        assert page.count(file_sha256(wheel)) == 1
    rows = re.findall(r'<tr role="row">\s*<td.*?</tr>', page, re.DOTALL)
    texts = [re.sub(r"<[^>]+>", " ", row).split() for row in rows]
    assert len(rows) == 6
    native = texts[2]
    assert native[:10] == ["2.2.0", "3.12", "2.11", "13.0", "x86_64", "8.0", "8.6", "8.9", "9.0a", "12.0"]
    assert native[10:16] == ["passed", "NVIDIA", "H100,", "torch", "2.11.0+cu130:", "120"]
    assert texts[0][:6] == texts[1][:6] == ["2.2.0", "3.10", "and", "newer", "2.9", "and"]
    assert sum("source not verified" in row for row in rows) == 1
    assert "for Linux x86_64 and aarch64, ready to install" in page
    assert page.count("<small>not imported</small>") == 1
    assert re.findall('data-label="Machine">(.*?)<', page)[:2] == ["x86_64", "aarch64"]


def test_the_page_needs_nothing_from_elsewhere_and_no_script_for_its_install_lines(
    wheelhouse: Path, tmp_path: Path
) -> None:
    script = "</script><script>alert(1)</script>"
    write_report(wheelhouse / NATIVE, headline=script)
    page = (
        write_site(wheelhouse, tmp_path / "site", "--site-url", "https://me.example/w") / "index.html"
    ).read_text()
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page, "all that the page's policy lets in"
    plain = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert '"sageattention==2.2.0" "torch==2.10.*" --extra-index-url https://me.example/w/cu128/' in plain
    assert '"sageattention==2.2.0" "torch==2.9.*" --index https://me.example/w/cu130/' in plain
    assert "alert(1)" in plain
    assert "<script>alert" not in page


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium, driven by its own driver; nothing is downloaded for it."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on PATH (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-dev-shm-usage", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=service.Service(driver))
    yield started
    started.quit()


@pytest.mark.e2e
def test_the_picker_prints_the_line_for_the_visitors_versions(
    wheelhouse: Path, tmp_path: Path, serve: Callable[[Path], StaticServer], browser: Any
) -> None:
    select = pytest.importorskip("selenium.webdriver.support.ui").Select
    address = serve(write_site(wheelhouse, tmp_path / "site")).url + "/"
    browser.get(address)

    def pick(name: str, value: str) -> None:
        select(browser.find_element("id", name)).select_by_visible_text(value)

    def shown(name: str) -> str:
        text: str = browser.find_element("id", name).text
        return text

    pick("python", "3.11")
    pick("cuda", "12.8")
    pick("torch", "2.10")
    wanted = '"sageattention==2.2.0+cu128.torch2.10.2" "torch==2.10.*"'
    assert shown("pip") == f"python -m pip install {wanted} --extra-index-url {address}cu128/"
    assert shown("uv") == f"uv pip install {wanted} --index {address}cu128/"
    pick("python", "3.13")
    assert shown("answer").startswith("No wheel fits Python 3.13 with torch 2.10.")
    assert not browser.find_element("id", "pip").is_displayed()
    pick("cuda", "13.0")
    pick("torch", "2.12 or newer")
    browser.find_element("id", "fresh").click()
    assert shown("pip") == (
        'python -m pip install "sageattention==2.2.0+cu130.universal.2" "torch>2.11.9999" '
        f"--extra-index-url {address}cu130/ --extra-index-url https://download.pytorch.org/whl/cu130"
    )
    assert not browser.find_element("id", "machine").is_displayed()
    make_ours(wheelhouse, UNIVERSAL_ARM)
    browser.get(serve(write_site(wheelhouse, tmp_path / "both")).url)
    pick("machine", "aarch64")
    pick("torch", "2.10 or newer")
    assert shown("pip").startswith(
        'python -m pip install "sageattention==2.2.0+cu130.universal.2" "torch>2.9.9999"'
    )
    assert shown("answer").startswith(
        "Runs on GPUs of compute capability 8.0, 8.6, 8.9, 9.0, 12.0, and on newer"
    )
    pick("cuda", "12.8")
    assert shown("answer") == "For CUDA 12.8 on aarch64 there is no wheel."
    assert not browser.find_element("id", "pip").is_displayed()
    assert browser.get_log("browser") == []


@pytest.mark.e2e
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_fits_the_screen_and_the_keyboard(
    wheelhouse: Path, tmp_path: Path, serve: Callable[[Path], StaticServer], browser: Any, width: int
) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(serve(write_site(wheelhouse, tmp_path / "site")).url)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    reached = []
    for _ in range(6):
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
        element = browser.switch_to.active_element
        reached.append(element.get_attribute("id") or element.get_attribute("textContent"))
    assert reached == ["python", "cuda", "torch", "fresh", "pip", "Copy the pip line"]
