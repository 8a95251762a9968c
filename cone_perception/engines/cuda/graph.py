"""CUDA graphs: queued work that is launched as one piece. By cuda-bindings, pycuda has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cone_perception.engines.cuda.network import Stream
from cone_perception.errors import EngineError, GpuMemoryError

_OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY"""


class CudaGraph:
    """A graph that is launched on the stream that it was captured from."""

    def __init__(self, stream: Stream, queue: Callable[[], None]) -> None:
        """Capture what `queue` puts on the stream.

        Raises EngineError; ImportError where there are no bindings.
        """
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
    if code == _OUT_OF_MEMORY:
        raise GpuMemoryError('the GPU has no memory left for a graph.')
    if code:
        raise EngineError(f'CUDA answers {status.name}')
    return tuple(values)
