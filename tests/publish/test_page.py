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
from fakes.index_wheels import NATIVE, OLDER_CUDA, UNIVERSAL_ARM, make_ours, write_report
from fakes.site import WHEELS_URL, write_site
from fakes.static_server import StaticServer

from builder.finish.store import record_path
from builder.util.errors import UsageError
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


def test_the_page_needs_nothing_from_elsewhere_and_its_policy_fits_it(
    wheelhouse: Path, tmp_path: Path
) -> None:
    page = (write_site(wheelhouse, tmp_path / "site", "--base-url", WHEELS_URL) / "index.html").read_text()
    assert re.findall(r"<(?:img|iframe|object|embed|audio|video)\b", page) == []
    assert re.findall(r"<(?:script|link)\b[^>]*\b(?:src|href)=\"(?!data:)", page) == []
    assert "@import" not in page
    assert "url(" not in page
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page


def test_what_reports_say_can_not_become_markup(tmp_path: Path) -> None:
    script = "</script><script>alert(1)</script>"
    make_ours(tmp_path / "wheelhouse", NATIVE)
    write_report(tmp_path / "wheelhouse" / NATIVE, headline=script, environment={"gpu": script})
    page = (write_site(tmp_path / "wheelhouse", tmp_path / "site") / "index.html").read_text()
    assert "<script>alert" not in page
    assert "alert(1)" in page
    for option in ("--repository", "--site-url", "--base-url"):
        with pytest.raises(UsageError, match=f"Argument {option}: "):
            write_site(tmp_path / "wheelhouse", tmp_path / "site", option, script)


def test_install_lines_are_there_without_script(wheelhouse: Path, tmp_path: Path) -> None:
    page = (
        write_site(wheelhouse, tmp_path / "site", "--site-url", "https://me.example/w") / "index.html"
    ).read_text()
    outside_of_script = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert (
        '"sageattention==2.2.0" "torch==2.10.*" --extra-index-url https://me.example/w/cu128/'
        in outside_of_script
    )
    assert '"sageattention==2.2.0" "torch==2.9.*" --index https://me.example/w/cu130/' in outside_of_script


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
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
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
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")]
)
def test_the_page_fits_the_screen_and_the_visitors_colours(
    wheelhouse: Path,
    tmp_path: Path,
    serve: Callable[[Path], StaticServer],
    browser: Any,
    width: int,
    scheme: str,
) -> None:
    for command, values in (
        ("setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        (
            "setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
        ),
    ):
        browser.execute_cdp_cmd(f"Emulation.{command}", values)
    browser.get(serve(write_site(wheelhouse, tmp_path / "site")).url)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert _contrasts(browser) == []
    unlabelled = browser.execute_script(
        "return [...document.querySelectorAll('select, input')].filter(f => !f.labels.length).map(f => f.id)"
    )
    assert unlabelled == []
    reached = _reached_by_keyboard(browser, 6)
    assert reached == ["python", "cuda", "torch", "fresh", "pip", "Copy the pip line"]


def _reached_by_keyboard(browser: Any, presses: int) -> list[str]:
    reached = []
    for _ in range(presses):
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
        element = browser.switch_to.active_element
        reached.append(element.get_attribute("id") or " ".join(element.get_attribute("textContent").split()))
    return reached


def _contrasts(browser: Any) -> list[str]:
    """Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    found: list[str] = browser.execute_script(
        """
        const parse = (text) => text.match(/[\\d.]+/g).map(Number);
        const luminance = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
          .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
          .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (element) => {
          for (let e = element; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
          }
          return [255, 255, 255];
        };
        return [...document.querySelectorAll('body *')]
          .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.offsetParent)
          .map((e) => {
            const colours = [parse(getComputedStyle(e).color), behind(e)];
            const pair = colours.map(luminance).sort((a, b) => b - a);
            return [(pair[0] + 0.05) / (pair[1] + 0.05), e.tagName + ' ' + e.textContent.trim().slice(0, 40)];
          })
          .filter(([ratio]) => ratio < 4.5).map(([ratio, text]) => ratio.toFixed(2) + ' ' + text);
        """
    )
    return found
