"""Memory on the GPU and page-locked memory beside it, for the frames that are under way."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from cone_perception.engines.cuda.graph import CudaGraph
from cone_perception.engines.cuda.network import Network
from cone_perception.engines.cuda.request import (
    ANSWER,
    CANDIDATE_BYTES,
    FIRST_PICTURE,
    MAX_CANDIDATES,
)

ROOM_BYTES = 1920 * 1200 * 3
"""Reserved per picture. A larger one makes its slot grow, once."""


class Slot:
    """Memory of one frame under way, on both sides.

    upload, upload_host: request and pictures. input, output, output_host: of the network.
    candidates, answers, answers_host: of the decoding. uploaded, done: events. graph: the work
    between upload and answer, where it could be captured. pictures: how many are under way.
    raw: the network's output is wanted, too.
    """

    def __init__(self, drv: Any, network: Network) -> None:
        batch = network.input_shape[0]
        self._drv = drv
        self._memory = ExitStack()
        self._upload_memory = ExitStack()
        self.graph: CudaGraph | None = None
        self.raw = False
        self.pictures = 0
        try:
            flags = drv.event_flags.BLOCKING_SYNC | drv.event_flags.DISABLE_TIMING
            self.uploaded = drv.Event(flags)
            self.done = drv.Event(flags)
            memory = self._memory
            self.input = self._on_device(_bytes(network.input_shape, network.half_input), memory)
            self.output = self._on_device(_bytes(network.output_shape, network.half_output), memory)
            self.candidates = self._on_device(batch * MAX_CANDIDATES * CANDIDATE_BYTES, memory)
            self.answers = self._on_device(batch * ANSWER.itemsize, memory)
            self.answers_host = self._on_host(batch * ANSWER.itemsize, np.uint8, memory)
            kind = np.float16 if network.half_output else np.float32
            self.output_host = self._on_host(network.output_shape, kind, memory)
            self.reserve(FIRST_PICTURE + batch * ROOM_BYTES)
        except BaseException:
            self.free()
            raise

    def reserve(self, size: int) -> None:
        """Make room for uploads of `size` bytes."""
        self._upload_memory.close()
        self.upload = self._on_device(size, self._upload_memory)
        self.upload_host = self._on_host(size, np.uint8, self._upload_memory)

    def drop_graph(self) -> None:
        if self.graph is not None:
            self.graph.close()
            self.graph = None

    def free(self) -> None:
        self._upload_memory.close()
        self._memory.close()
        self.uploaded = self.done = None

    def _on_device(self, size: int, memory: ExitStack) -> Any:
        block = self._drv.mem_alloc(size)
        memory.callback(block.free)
        return block

    def _on_host(
        self, shape: int | tuple[int, ...], kind: type[np.generic], memory: ExitStack
    ) -> Any:
        """A page-locked array: the GPU copies from and to it without the driver's own buffer."""
        array = self._drv.pagelocked_empty(shape, kind)
        memory.callback(array.base.free)
        return array


def _bytes(shape: tuple[int, ...], half: bool) -> int:
    return int(np.prod(shape)) * (2 if half else 4)
