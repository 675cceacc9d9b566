"""Answers `kernel_speed.py` for one installed copy of SageAttention, line by line: JSON in, JSON out.

Needs torch, Triton and the copy.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernel_calls import Call, call_of
from benchmarks.kernel_inputs import Inputs
from benchmarks.kernel_rows import FUNCTION, Row
from builder.smoketest.attention.kernels import MODULE_FUNCTIONS
from builder.smoketest.attention.reference import attention, difference
from builder.smoketest.attention.subject import one_line

LEAST_COSINE = 0.998
MOST_LSE_ERROR = 0.1
SAMPLES = 3
SAMPLE_S = 0.002
MOST_REPEATS = 16
"""Calls queued behind the sleeping GPU; the queue holds about a thousand launches."""
LONG_S = 0.002
"""From here on, a call's launch can't be seen in its time."""


class Copy:
    """The imported copy, and the inputs of the shape in work."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = device.startswith("cuda")
        self.package = importlib.import_module("sageattention")
        self.mended = self._mend()
        self.inputs = Inputs(device)
        self.once_s: dict[Row, float] = {}
        self.cycles_per_s = 1.0

    def _mend(self) -> str:
        """Correct the name that 2.2.0 lost: the Hopper path's fused-scale operator is its own fake there.

        The pybind function below it is right, so the copy's public functions can be timed with it.
        """
        name = "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf"
        try:
            wrapper = importlib.import_module("sageattention.sm90_compile")
            module = importlib.import_module("sageattention._qattn_sm90")
        except ImportError:
            return ""
        if not (str(module.__file__).endswith(".so") and type(getattr(wrapper, name)).__name__ == "function"):
            return ""
        setattr(wrapper, name, getattr(module, name))
        return f"sm90_compile.{name} put right for the comparison"

    def hello(self) -> dict[str, Any]:
        """Return what this copy is, and where it runs."""
        missing = {}
        for module in MODULE_FUNCTIONS:
            try:
                importlib.import_module(f"sageattention.{module}")
            except Exception as error:
                missing[module] = one_line(error)
        values: dict[str, Any] = {
            "location": str(Path(str(self.package.__file__)).parent),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
            "mended": self.mended,
            "missing": missing,
            "device": "cpu",
            "capability": [9, 0],
        }
        if self.cuda:
            torch.cuda.init()
            values["device"] = torch.cuda.get_device_name(self.device)
            values["capability"] = list(torch.cuda.get_device_capability(self.device))
            self.cycles_per_s = self._clock()
        return values

    def _clock(self) -> float:
        """Return the cycles that `torch.cuda._sleep` counts in a second."""
        cycles = 10_000_000
        torch.cuda._sleep(cycles)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.cuda._sleep(cycles)
        end.record()
        torch.cuda.synchronize()
        return float(cycles / (begin.elapsed_time(end) / 1000))

    def check(self, row: Row) -> dict[str, Any]:
        """Call once, and return whether the result can be right and what it is.

        Returns:
            `wrong` (empty if nothing speaks against it), `digest` of all results.
        """
        results = self.results(row)
        return {"wrong": self.wrong(row, results), "digest": digest(results)}

    def results(self, row: Row) -> tuple[torch.Tensor, ...]:
        """Return the results of one call."""
        call = call_of(row, self.package, self.inputs)
        self.inputs.poison()
        results = call()
        self.wait()
        return results

    def wait(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def wrong(self, row: Row, results: tuple[torch.Tensor, ...]) -> str:
        """Return why results can't be right; empty if nothing speaks against them."""
        out = results[0]
        if row.kind != FUNCTION:
            bad = [int((~torch.isfinite(one.float())).sum()) for one in results]
            return f"{sum(bad)} elements are NaN or infinite" if any(bad) else ""
        right, right_lse = self.inputs.keep(f"right {row.causal}", lambda _: self._right(row))
        apart = difference(first(out, row.layout), right)
        if apart.not_finite:
            return f"{apart.not_finite} elements are NaN or infinite"
        if not apart.cosine >= LEAST_COSINE:
            return f"cosine {apart.cosine:.4f}"
        if len(results) > 1 and right_lse is not None:
            error = float((results[1].float() - right_lse).abs().max())
            return "" if error <= MOST_LSE_ERROR else f"logsumexp off by {error:.3f}"
        return ""

    def _right(self, row: Row) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return attention by torch: in fp32, or by torch's own kernel if that would take long."""
        q, k, v = (first(one, row.layout) for one in self.inputs.qkv(row))
        if max(row.lengths) <= 4096:
            return attention(q, k, v, causal=row.causal)
        scaled = torch.nn.functional.scaled_dot_product_attention
        return scaled(q, k, v, is_causal=row.causal).float(), None

    def time(self, row: Row) -> dict[str, Any]:
        """Return the seconds of one call: of the GPU alone, of calls in a row, and of the caller.

        `gpu`: the calls are queued while the GPU sleeps, so it finds them waiting and no launch shows.
        `call`: calls into an empty queue, as a program makes them; none for long calls, where it is the same.
        `host`: the caller's time to queue a call.
        """
        call = call_of(row, self.package, self.inputs)
        self.wait()
        if row not in self.once_s:
            call()
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            self.once_s[row] = max(time.perf_counter() - start, 1e-6)
        once_s = self.once_s[row]
        if once_s < 10 * LONG_S:
            call()
        repeats = max(1, min(MOST_REPEATS, round(SAMPLE_S / once_s)))
        if not self.cuda:
            samples = [timed(call, repeats) for _ in range(SAMPLES)]
            return {"gpu": samples, "call": samples, "host": samples}
        count = SAMPLES if once_s < LONG_S else 2
        behind = [self._behind_sleep(call, repeats, once_s) for _ in range(count)]
        calls = [self._one_after_the_other(call, repeats) for _ in range(SAMPLES)] if once_s < LONG_S else []
        return {"gpu": [gpu for gpu, _ in behind], "call": calls, "host": [host for _, host in behind]}

    def memory(self, row: Row) -> dict[str, Any]:
        """Bytes that a call allocates at its highest, its output included, and those of one of its inputs."""
        call = call_of(row, self.package, self.inputs)
        call()
        self.wait()
        if not self.cuda:
            return {"bytes": 0, "input_bytes": 1}
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        q = self.inputs.qkv(row)[0]
        most = torch.cuda.max_memory_allocated(self.device)
        return {"bytes": most - before, "input_bytes": q.numel() * q.element_size()}

    def _behind_sleep(self, call: Call, repeats: int, once_s: float) -> tuple[float, float]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        sleep_s = 0.0003 + (2 * repeats * once_s if once_s < LONG_S else 0.001)
        for _ in range(4):
            self.wait()
            torch.cuda._sleep(int(sleep_s * self.cycles_per_s))
            begin.record()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            host_s = (time.perf_counter() - start) / repeats
            queued_in_time = not begin.query()
            end.record()
            self.wait()
            if queued_in_time or once_s >= LONG_S:
                return float(begin.elapsed_time(end)) / 1000 / repeats, host_s
            sleep_s *= 2
        raise RuntimeError("the calls could not be queued while the GPU slept: do they wait for it?")

    def _one_after_the_other(self, call: Call, repeats: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        self.wait()
        return float(begin.elapsed_time(end)) / 1000 / repeats


def first(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a tensor with its heads before its tokens."""
    return tensor if layout == "HND" else tensor.transpose(1, 2)


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, so that NaN equals NaN."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def digest(results: tuple[torch.Tensor, ...]) -> list[int]:
    """Return numbers that differ if the results differ in a bit (except by a chance of about 2^-60)."""
    sums = []
    for one in results:
        bits = as_bits(one)
        words = torch.nn.functional.pad(bits, (0, -bits.numel() % 8)).view(torch.int64)
        total = 0
        for start in range(0, words.numel(), 2**24):
            part = words[start : start + 2**24]
            odd = torch.arange(2 * start + 1, 2 * (start + part.numel()), 2, device=part.device)
            total += int((part * (odd * 0x1E3779B97F4A7C15)).sum())
        sums.append(total)
    return sums


def compare(mine: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> list[dict[str, Any]]:
    """Return how far results are from another copy's: how many elements differ, and by how much at most."""
    answer = []
    for one, other in zip(mine, others, strict=True):
        size = one.element_size()
        unequal = (as_bits(one) != as_bits(other)).view(-1, size).any(dim=1)
        apart = (one.float() - other.float()).abs().reshape(-1)[unequal] if unequal.any() else torch.zeros(1)
        answer.append(
            {
                "elements": one.numel(),
                "unequal": int(unequal.sum()),
                "largest": float(apart.nan_to_num(nan=float("inf")).max()),
            }
        )
    return answer


def timed(call: Call, repeats: int) -> float:
    """Return the seconds of a call on the CPU."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def answer(copy: Copy, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for.

    Returns:
        The answer; `error` where the copy raised.
    """
    if request["do"] == "hello":
        return copy.hello()
    row = Row.parse(request["row"])
    if request["do"] == "check":
        return copy.check(row)
    if request["do"] == "time":
        return copy.time(row)
    if request["do"] == "memory":
        return copy.memory(row)
    results = copy.results(row)
    wrong = copy.wrong(row, results)
    kept = tuple(one.detach().cpu() for one in results)
    if request["do"] == "save":
        torch.save(kept, request["path"])
        return {"wrong": wrong}
    return {"wrong": wrong, "results": compare(kept, torch.load(request["path"]))}


def main() -> int:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copy", type=Path, required=True)
    parser.add_argument("--device", default="cuda:0")
    options = parser.parse_args()
    # What the package prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, str(options.copy.resolve()))
    warnings.simplefilter("ignore")
    copy: Copy | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            copy = copy or Copy(options.device)
            reply = answer(copy, request)
        except Exception as error:
            reply = {"error": one_line(error)}
        if copy and "error" in reply:
            copy.inputs.drop()
            try:
                copy.wait()
            except Exception as error:
                reply["lost"] = one_line(error)
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
        if "lost" in reply:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
