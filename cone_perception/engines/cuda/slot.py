"""Frames under way on the GPU: their memory on both sides, and their work as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from cone_perception.engines.cuda.request import (
    ANSWER,
    CANDIDATE_BYTES,
    FIRST_PICTURE,
    MAX_CANDIDATES,
)
from cone_perception.errors import EngineError, GpuMemoryError

ROOM_BYTES = 1920 * 1200 * 3
"""Reserved per picture, of two at most. More makes the slot grow, once."""


class Network(Protocol):
    """Work between letterbox and decoding. Called in the device's thread only.

    input_shape: (B, 3, H, W). output_shape: (B, 4 + classes, A) or (B, N, 6).
    half_input, half_output: float16 instead of float32.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    half_input: bool
    half_output: bool

    def enqueue(self, stream: Any, input_address: int, output_address: int) -> None:
        """Queue one run on pycuda's stream. Raises EngineError."""
        ...

    def close(self) -> None: ...


class Slot:
    """Memory of one frame under way, on both sides.

    upload, upload_host: request and pictures. input, output, output_host: of the network.
    candidates, answers, answers_host: of the decoding. uploaded, done: events. graph: the work
    between upload and answer, where it could be captured. pictures: how many views are under way.
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
            self.reserve(FIRST_PICTURE + min(batch, 2) * ROOM_BYTES)
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


class CudaGraph:
    """Queued work, launched as one piece on its stream, by cuda-bindings: pycuda has no graphs."""

    def __init__(self, stream: Any, queue: Callable[[], None]) -> None:
        """Capture what `queue` puts there. Raises EngineError; ImportError without bindings."""
        cu = self._cu = import_bindings()
        self._stream = cu.CUstream(int(stream.handle))
        # Thread-local: what other threads, PyTorch's say, do meanwhile does not break it.
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _checked(cu.cuStreamBeginCapture(self._stream, mode))
        try:
            queue()
        finally:
            ended = cu.cuStreamEndCapture(self._stream)
        (graph,) = _checked(ended)
        try:
            (self._graph,) = _checked(cu.cuGraphInstantiate(graph, 0))
        finally:
            _checked(cu.cuGraphDestroy(graph))

    def launch(self) -> None:
        _checked(self._cu.cuGraphLaunch(self._graph, self._stream))

    def close(self) -> None:
        _checked(self._cu.cuGraphExecDestroy(self._graph))


def import_bindings() -> Any:
    """The module cuda.bindings.driver. Raises ImportError when it, or its library, is missing."""
    try:
        from cuda.bindings import driver
    except RuntimeError as error:
        raise ImportError(str(error)) from error
    return driver


def _checked(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take the status off the answer of cuda-bindings. Raises EngineError: when it is an error."""
    status, *values = answer
    code = int(status)
    if code == 2:  # CUDA_ERROR_OUT_OF_MEMORY
        raise GpuMemoryError('the GPU has no memory left for a graph.')
    if code:
        raise EngineError(f'CUDA answers {status.name}')
    return tuple(values)
