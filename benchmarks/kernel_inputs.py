"""Inputs and outputs of a kernel: the same in every process, with room around them. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.kernel_rows import Row

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
MARGIN_ELEMENTS = 32768
"""Zeros before and after an input: what lies beyond an end is the same in every process."""


class Inputs:
    """The tensors of one shape, by name."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.shape: tuple[Any, ...] = ()
        self.held: dict[str, Any] = {}

    def turn_to(self, row: Row) -> None:
        """Drop the tensors of other shapes than the row's."""
        if row.shape != self.shape:
            self.shape, self.held = row.shape, {}

    def drop(self) -> None:
        """Drop all tensors."""
        self.shape, self.held = (), {}

    def keep(self, key: str, make: Callable[[torch.Generator], Any]) -> Any:
        """Return what has a name; the first time make it, with random numbers that follow from the name."""
        if key not in self.held:
            seed = sum(key.encode()) * 7919 % 2**31
            self.held[key] = make(torch.Generator(device=self.device).manual_seed(seed))
        return self.held[key]

    def normal(self, key: str, shape: tuple[int, ...], dtype: torch.dtype, factor: float = 1.0) -> Any:
        """Return normal random numbers, with zeros around them."""

        def make(generator: torch.Generator) -> torch.Tensor:
            values = torch.randn(shape, generator=generator, device=self.device) * factor
            if dtype == torch.int8:
                values = values.round().clamp(-127, 127)
            elif dtype == torch.float8_e4m3fn:
                values = values.clamp(-448, 448)
            return self._surrounded(values.to(dtype))

        return self.keep(f"{key} {shape} {dtype} {factor}", make)

    def _surrounded(self, values: torch.Tensor) -> torch.Tensor:
        size_bytes = (values.numel() + 2 * MARGIN_ELEMENTS) * values.element_size()
        buffer = torch.zeros(size_bytes, dtype=torch.uint8, device=self.device).view(values.dtype)
        inside = buffer[MARGIN_ELEMENTS : MARGIN_ELEMENTS + values.numel()].view(values.shape)
        inside.copy_(values)
        return inside

    def scales(self, key: str, shape: tuple[int, ...], factor: float) -> Any:
        """Return factors from 0.9 to 1.1 times `factor`."""

        def make(generator: torch.Generator) -> torch.Tensor:
            return (torch.rand(shape, generator=generator, device=self.device) * 0.2 + 0.9) * factor

        return self.keep(f"{key} {shape} {factor}", make)

    def output(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Return a tensor to write to."""
        name = f"output {key} {shape} {dtype}"
        return self.keep(name, lambda _: torch.empty(shape, dtype=dtype, device=self.device))

    def poison(self) -> None:
        """Fill the outputs with NaN (-1 if they are int8): what a call does not write shows."""
        for key, tensor in self.held.items():
            if key.startswith("output "):
                tensor.view(torch.uint8).fill_(0xFF)

    def qkv(self, row: Row) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the row's Q, K and V."""
        queries, keys = row.lengths
        dtype = DTYPES[row.dtype]
        return (
            self.normal("q", place(row, queries, row.head_dim), dtype),
            self.normal("k", place(row, keys, row.head_dim), dtype),
            self.normal("v", place(row, keys, row.head_dim), dtype),
        )


def place(row: Row, tokens: int, dim: int) -> tuple[int, int, int, int]:
    """Return the shape of a tensor of tokens and heads in the row's layout."""
    return (row.batch, row.heads, tokens, dim) if row.layout == "HND" else (row.batch, tokens, row.heads, dim)
