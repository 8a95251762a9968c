"""The seam between the GPU's memory and what computes a network on it."""

from __future__ import annotations

from typing import Protocol


class Stream(Protocol):
    """A stream of pycuda."""

    @property
    def handle(self) -> int: ...


class Network(Protocol):
    """Work between letterbox and decoding. Called in the device's thread only.

    input_shape: (B, 3, H, W). output_shape: (B, 4 + classes, A) or (B, N, 6).
    half_input, half_output: float16 instead of float32.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    half_input: bool
    half_output: bool

    def enqueue(self, stream: Stream, input_address: int, output_address: int) -> None:
        """Queue one run on pycuda's stream. Raises EngineError."""
        ...

    def close(self) -> None: ...
