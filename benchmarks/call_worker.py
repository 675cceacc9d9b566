"""The process of one copy of SageAttention: times what it is asked to, an answer for each line of input."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.call_speed import Row

QUEUE = 200  # calls that wait at once; the driver's queue holds 1,024 launches
sageattention: Any = importlib.import_module("sageattention")


class Clock:
    """Samples the SM clock in the background, in MHz; without nvidia-smi it has no samples."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        command = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "-lms", "50"]
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    self.samples.append((time.monotonic(), float(line.split()[0])))
        except (OSError, ValueError):
            return

    def since(self, start: float) -> float | None:
        """The median since a time."""
        samples = [clock for when, clock in self.samples if when >= start]
        return statistics.median(samples) if samples else None


def inputs(row: Row) -> tuple[Any, Any, Any, Any]:
    """Return Q, K and V in HND, and the mask."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
    kv = (row.batch, row.kv_heads or row.heads, row.kv_tokens, row.head_dim)
    q = torch.randn(row.batch, row.heads, row.q_tokens, row.head_dim, **options)
    k, v = torch.randn(kv, **options), torch.randn(kv, **options)
    if row.layout == "NHD":
        q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (q, k, v))
    mask = None
    if row.mask == "bool":
        mask = torch.rand(row.q_tokens, row.kv_tokens, device="cuda") > 0.3
    elif row.mask == "float":
        mask = torch.randn(row.q_tokens, row.kv_tokens, **options)
    elif row.mask == "padding":
        mask = (torch.arange(row.kv_tokens, device="cuda") < row.kv_tokens * 3 // 4).view(1, 1, 1, -1)
        mask = mask.expand(row.batch, 1, 1, -1)
    return q, k, v, mask


def contender(row: Row, name: str) -> Callable[[], Any]:
    """Return the call: torch's attention, or `sageattn()`."""
    q, k, v, mask = inputs(row)
    if name == "torch":
        attention = torch._C._nn.scaled_dot_product_attention
        return lambda: attention(q, k, v, attn_mask=mask, is_causal=row.causal, enable_gqa=bool(row.kv_heads))
    if row.layout == "NHD":
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    options = {} if mask is None else {"attn_mask": mask}
    return lambda: sageattention.sageattn(q, k, v, tensor_layout=row.layout, is_causal=row.causal, **options)


def time_calls(call: Callable[[], Any], seconds: float, clock: Clock) -> dict[str, Any]:
    """Time a call for some seconds: medians of GPU and host time in microseconds, the clock, and memory."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, began = torch.cuda.memory_allocated(), time.perf_counter()
    kept = call()
    torch.cuda.synchronize()
    once = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    count = max(1, min(QUEUE, int(0.05 / once)))
    gpu: list[float] = []
    host: list[float] = []
    began = time.monotonic()
    while not gpu or time.monotonic() - began < seconds:
        # The queue fills while the GPU is busy with this.
        torch.cuda._sleep(int(2e9 * min(once, 1e-4) * count))
        start.record()
        queued = time.perf_counter()
        for _ in range(count):
            call()
        host.append((time.perf_counter() - queued) / count * 1e6)
        stop.record()
        torch.cuda.synchronize()
        gpu.append(start.elapsed_time(stop) / count * 1e3)
    return {
        "gpu_us": statistics.median(gpu),
        "host_us": statistics.median(host),
        "peak_bytes": peak,
        "clock_mhz": clock.since(began + seconds / 4),
    }


def work() -> None:
    """Answer each line of standard input with a line."""
    clock = Clock()
    for line in sys.stdin:
        request = json.loads(line)
        row = Row(**request["row"])
        try:
            call = contender(row, request["name"])
            reply = time_calls(call, request["seconds"], clock)
            reply["peak_inputs"] = reply.pop("peak_bytes") / (
                2 * row.batch * row.heads * row.q_tokens * row.head_dim
            )
            if request["name"] == "sageattn":
                own = call().transpose(1, 2) if row.layout == "NHD" else call()
                exact = contender(row, "torch")()
                reply["error"] = float((own.float() - exact.float()).norm() / exact.float().norm())
                q, k, v, mask = inputs(row)
                if hasattr(sageattention, "explain"):
                    choice = sageattention.explain(q, k, v, is_causal=row.causal, attn_mask=mask)
                    reply["kernel"] = choice.kernel
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        reply |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    work()
