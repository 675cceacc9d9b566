"""Inputs surrounded by NaN, and freed memory full of NaN: unwritten output and reads past an end show.

The byte 0xFF repeated is a NaN in fp32, fp16, bf16 and fp8 (e4m3), and -1 in int8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from builder.smoketest.attention.cases import Case, VarlenCase

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
POISON_BYTE = 0xFF
GUARD_ELEMENTS = 16384
"""NaN before and after each input: as much as any kernel's tile of one head, and a multiple of 512 bytes."""

HEADROOM_BYTES = 2**32
"""GPU memory that poisoning leaves to others."""
SURPLUS_BYTES = 6 * 2**30
"""Free memory in the allocator above which it is returned before poisoning."""


@dataclass(frozen=True)
class Inputs:
    """Query, key and value as they are passed, and the whole buffers that they are views of."""

    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    buffers: tuple[torch.Tensor, ...]

    def heads_first(self, layout: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three as ``[batch, heads, tokens, head_dim]``."""
        q, k, v = self.tensors
        return self.tensors if layout == "HND" else (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

    def snapshot(self) -> tuple[torch.Tensor, ...]:
        """Return copies of the buffers, to see later whether a call wrote into them."""
        return tuple(buffer.clone() for buffer in self.buffers)

    def changed_since(self, snapshot: tuple[torch.Tensor, ...]) -> bool:
        """Return whether a byte of the buffers differs from the snapshot."""
        return any(
            not torch.equal(now.view(torch.uint8), then.view(torch.uint8))
            for now, then in zip(self.buffers, snapshot, strict=True)
        )


def guarded(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a contiguous tensor of NaN, and the longer buffer of NaN that it is the middle of."""
    numel = math.prod(shape)
    size_bytes = (numel + 2 * GUARD_ELEMENTS) * dtype.itemsize
    buffer = torch.full((size_bytes,), POISON_BYTE, dtype=torch.uint8, device=device).view(dtype)
    return buffer[GUARD_ELEMENTS : GUARD_ELEMENTS + numel].view(shape), buffer


def make(case: Case, seed: int, device: str, heads: int | None = None) -> Inputs:
    """Return inputs for a case, from a standard normal distribution; `heads` are the case's by default.

    With ``k_mean`` every channel of K has a mean of its own with a standard deviation of 4.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    heads = heads or case.heads
    key_heads = heads // case.groups
    q, q_buffer = _tensor(case, heads, case.lengths[0], generator, device)
    k, k_buffer = _tensor(case, key_heads, case.lengths[1], generator, device)
    v, v_buffer = _tensor(case, key_heads, case.lengths[1], generator, device)
    if case.k_mean:
        means = 4 * torch.randn((key_heads, case.head_dim), generator=generator, device=device)
        k += means.unsqueeze(1 if case.layout == "HND" else 0).to(k.dtype)
    if case.zero_channel:
        v[..., 5] = 0
    return Inputs((q, k, v), (q_buffer, k_buffer, v_buffer))


def _tensor(
    case: Case, heads: int, tokens: int, generator: torch.Generator, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = DTYPES[case.dtype]
    heads_first = case.layout == "HND"
    if case.memory == "transposed":
        heads_first = not heads_first
    outer = (case.batch, heads, tokens) if heads_first else (case.batch, tokens, heads)
    wide = (*outer, 2 * case.head_dim) if case.memory == "sliced" else (*outer, case.head_dim)
    tensor, buffer = guarded(wide, dtype, device)
    tensor = tensor[..., : case.head_dim]
    tensor.copy_(torch.randn((*outer, case.head_dim), generator=generator, device=device))
    return (tensor.transpose(1, 2) if case.memory == "transposed" else tensor), buffer


def make_packed(case: VarlenCase, seed: int, device: str) -> tuple[Inputs, tuple[Any, ...]]:
    """Return random packed sequences for a case, and the positional arguments of ``sageattn_varlen``."""
    generator = torch.Generator(device=device).manual_seed(seed)
    dtype = DTYPES[case.dtype]
    key_heads = case.heads // case.groups
    queries = [q for q, _ in case.sequences]
    keys = [k for _, k in case.sequences]
    tensors, buffers = [], []
    for tokens, heads in ((sum(queries), case.heads), (sum(keys), key_heads), (sum(keys), key_heads)):
        tensor, buffer = guarded((tokens, heads, case.head_dim), dtype, device)
        tensor.copy_(torch.randn(tensor.shape, generator=generator, device=device))
        tensors.append(tensor)
        buffers.append(buffer)
    if case.k_mean:
        means = 4 * torch.randn((key_heads, case.head_dim), generator=generator, device=device)
        tensors[1] += means.to(dtype)
    starts = (cu_seqlens(queries, device), cu_seqlens(keys, device))
    inputs = Inputs((tensors[0], tensors[1], tensors[2]), tuple(buffers))
    return inputs, (*tensors, *starts, max(queries), max(keys))


def pack(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[Any, ...]:
    """Return ``[batch, heads, tokens, head_dim]`` as the positional arguments of ``sageattn_varlen``.

    With a batch of 1 the tensors are views.
    """
    lengths = (q.shape[2], k.shape[2])
    tensors = (x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], x.shape[1], x.shape[3]) for x in (q, k, v))
    count = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=q.device)
    return (*tensors, *(count * length for length in lengths), *lengths)


def unpack(out: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return the result of a call with `pack`'s arguments as ``[batch, heads, tokens, head_dim]``."""
    batch, heads, tokens, _ = q.shape
    return out.reshape(batch, tokens, heads, out.shape[-1]).transpose(1, 2)


def arguments(case: Case | VarlenCase, seed: int, device: str) -> tuple[Any, ...]:
    """Return a kernel's positional arguments for a case."""
    if isinstance(case, VarlenCase):
        return make_packed(case, seed, device)[1]
    return make(case, seed, device).tensors


def cu_seqlens(lengths: Sequence[int], device: str) -> torch.Tensor:
    """Return where packed sequences of these lengths begin, and the last one's end."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


def poison(device: str, size_bytes: int = 2**28) -> None:
    """Fill the caching allocator's free memory, on the current stream, with NaN.

    First come blocks of the sizes that a call will ask for (the large one of `size_bytes`), then every free
    block that is left; all are freed again. The CPU's allocator keeps no memory.
    """
    if not device.startswith("cuda"):
        return
    if torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) > SURPLUS_BYTES:
        torch.cuda.empty_cache()
    room, _ = torch.cuda.mem_get_info(device)
    large = max(0, min(size_bytes, room - HEADROOM_BYTES))
    sizes = [large, *([2**20] * 8), *([2**17] * 16), *([2**14] * 32), *([512] * 64)]
    held = [torch.full((size,), POISON_BYTE, dtype=torch.uint8, device=device) for size in sizes]
    # Not one list for both: the free blocks are those that are left after the first have been taken.
    rest = [
        torch.full((size,), POISON_BYTE, dtype=torch.uint8, device=device) for size in _free_blocks(device)
    ]
    del held, rest
    torch.cuda.synchronize(device)


def _free_blocks(device: str) -> list[int]:
    """Return the sizes of the free blocks of the current stream's pool, largest first."""
    stream = torch.cuda.current_stream(device).cuda_stream
    index = torch.device(device).index or 0
    sizes: list[int] = []
    for segment in torch.cuda.memory_snapshot():
        if segment["device"] != index or segment["stream"] != stream:
            continue
        if tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0):
            continue
        free = [block["size"] for block in segment["blocks"] if block["state"] == "inactive"]
        sizes += pieces(free) if segment["segment_type"] == "small" else free
    return sorted(sizes, reverse=True)


def pieces(sizes: list[int], largest: int = 2**20) -> list[int]:
    """Return sizes of at most 1 MiB, which the allocator takes from small segments, for free blocks of these.

    To ask for a segment of 2 MiB that is all free would map a large one, with a rest without NaN.
    """
    return [part for size in sizes for part in ([largest] * (size // largest) + [size % largest]) if part]
