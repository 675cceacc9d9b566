"""What the local version of a wheel says: `cu130.torch2.11.sm89` behind the `+`."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A local version label in parts; each is empty where it isn't there.

    Attributes:
        cuda: CUDA version, `13.0`.
        torch: torch series, `2.11`.
        universal: Whether it says that the wheel is for every torch.
        architectures: Numbers of the architectures, `89` or `90a`.
    """

    cuda: str
    torch: str
    universal: bool
    architectures: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Label:
        """Read what this project, PyTorch and others write; parts that it doesn't know are ignored."""
        cuda = re.search(r"cu(?:da)?(\d{2})(\d)(?!\d)", text)
        torch = re.search(r"torch(\d+(?:\.\d+)?)", text)
        return cls(
            cuda=f"{cuda[1]}.{cuda[2]}" if cuda else "",
            torch=torch[1] if torch else "",
            universal="universal" in text.split("."),
            architectures=tuple(re.findall(r"(?:^|\.)sm_?(\d{2,3}[af]?)(?=\.|$)", text)),
        )

    @property
    def cuda_tag(self) -> str:
        """The CUDA version as PyTorch's package indexes name it: `cu130`; empty without one."""
        return f"cu{self.cuda.replace('.', '')}" if self.cuda else ""
