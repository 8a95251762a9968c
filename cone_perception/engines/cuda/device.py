"""One NVIDIA GPU through pycuda: upload, letterbox, network, decoding, a few kB back.

Everything in here runs in one thread, the one that made the object (see worker.py). It shares the
GPU's primary context, so that PyTorch in the same process works on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cone_perception.engines.cuda.compile import KernelOptions, find_compiler, load_kernels
from cone_perception.engines.cuda.request import (
    ANSWER,
    CANDIDATE_BYTES,
    FIRST_PICTURE,
    MAX_BATCH,
    MAX_CANDIDATES,
    MAX_CLASSES,
    MAX_KEPT,
    guess_layout,
    upload_bytes,
    write_upload,
)
from cone_perception.errors import EngineError, EngineLostError, GpuMemoryError
from cone_perception.model_card import Preprocessing
from cone_perception.types import CameraPicture, Float32

SLOTS = 2
"""Frames under way at once: one goes up while the other is computed."""

ROOM_BYTES = 1920 * 1200 * 3
"""Reserved per picture. A larger one makes its slot grow, once."""

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for PyTorch's default stream in the same process."""

LETTERBOX_BLOCK = (32, 8, 1)
SELECT_BLOCK = (256, 1, 1)
SUPPRESS_BLOCK = (256, 1, 1)


class Stream(Protocol):
    """Of pycuda."""

    @property
    def handle(self) -> int: ...


class Network(Protocol):
    """What is computed between letterbox and decoding. Called in the device's thread only.

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


@dataclass(frozen=True, slots=True)
class CameraJob:
    """A batch of pictures to search.

    thresholds: (classes,) float32. raw: the network's output is wanted, too.
    """

    pictures: Sequence[CameraPicture]
    thresholds: Float32
    nms_iou: float
    raw: bool = False


@dataclass(frozen=True, slots=True)
class CameraAnswer:
    """answers: (B,) of ANSWER. output: the network's, where asked for or where a list ran over."""

    answers: npt.NDArray[np.void]
    output: Float32 | None


class _Slot:
    """Memory of one frame under way, on both sides."""

    def __init__(self, drv: Any, network: Network) -> None:
        batch = network.input_shape[0]
        self._drv = drv
        self._device_memory: list[Any] = []
        self._host_memory: list[Any] = []
        self.graph: Any = None
        self.raw = False
        self.pictures = 0
        self.upload: Any = None
        self.upload_host: Any = None
        try:
            flags = drv.event_flags.BLOCKING_SYNC | drv.event_flags.DISABLE_TIMING
            self.uploaded = drv.Event(flags)
            self.done = drv.Event(flags)
            self.input = self._on_device(_bytes(network.input_shape, network.half_input))
            self.output = self._on_device(_bytes(network.output_shape, network.half_output))
            self.candidates = self._on_device(batch * MAX_CANDIDATES * CANDIDATE_BYTES)
            self.answers = self._on_device(batch * ANSWER.itemsize)
            self.answers_host = self._on_host(batch * ANSWER.itemsize, np.uint8)
            kind = np.float16 if network.half_output else np.float32
            self.output_host = self._on_host(network.output_shape, kind)
            self.reserve(FIRST_PICTURE + batch * ROOM_BYTES)
        except BaseException:
            self.free()
            raise

    def reserve(self, size: int) -> None:
        """Make room for uploads of `size` bytes."""
        self._free_upload()
        self.upload = self._drv.mem_alloc(size)
        self.upload_host = self._drv.pagelocked_empty(size, np.uint8)

    def free(self) -> None:
        self._free_upload()
        while self._device_memory:
            self._device_memory.pop().free()
        while self._host_memory:
            self._host_memory.pop().base.free()
        self.uploaded = self.done = None

    def _on_device(self, size: int) -> Any:
        self._device_memory.append(self._drv.mem_alloc(size))
        return self._device_memory[-1]

    def _on_host(self, shape: int | tuple[int, ...], kind: type[np.generic]) -> Any:
        """A page-locked array: the GPU copies from and to it without the driver's own buffer."""
        self._host_memory.append(self._drv.pagelocked_empty(shape, kind))
        return self._host_memory[-1]

    def _free_upload(self) -> None:
        if self.upload is not None:
            self.upload.free()
            self.upload = None
        if self.upload_host is not None:
            self.upload_host.base.free()
            self.upload_host = None


class CudaDevice:
    """Runs a network on camera pictures. A worker.Device."""

    slots = SLOTS

    def __init__(
        self,
        load_network: Callable[[], Network],
        preprocessing: Preprocessing,
        use_graph: bool = True,
    ) -> None:
        """load_network: called with the context current, and again by reload().

        Raises EngineError.
        """
        self._drv = _import_pycuda()
        self._load_network = load_network
        self._preprocessing = preprocessing
        self._network: Network | None = None
        self._slots: list[_Slot] = []
        self._module: Any = None
        self._kernels: dict[str, Any] = {}
        self._no_graph = '' if use_graph else 'a graph was not wanted'
        try:
            self._drv.init()
            gpu = self._drv.Device(0)
            self.name = str(gpu.name())
            major, minor = gpu.compute_capability()
            self.architecture = major * 10 + minor
            self._context = gpu.retain_primary_context()
        except self._drv.Error as error:
            raise EngineError(
                f'there is no NVIDIA GPU that can be used: {error}. '
                'Look at nvidia-smi, or run on the CPU.'
            ) from error
        self._context.push()
        try:
            self._copies = self._drv.Stream(_NON_BLOCKING)
            self._work = self._drv.Stream(_NON_BLOCKING)
            self._load()
        except BaseException as error:
            raised = self._translated(error) if isinstance(error, self._drv.Error) else error
            if not isinstance(raised, EngineLostError):
                self.close()
            if raised is error:
                raise
            raise raised from error

    @property
    def launches(self) -> str:
        """How the work reaches the GPU: 'one CUDA graph', or 'plain launches: ' and why."""
        return f'plain launches: {self._no_graph}' if self._no_graph else 'one CUDA graph'

    @property
    def network(self) -> Network:
        assert self._network is not None
        return self._network

    def start(self, slot: int, job: CameraJob) -> None:
        try:
            self._start(self._slots[slot], job)
        except (self._drv.Error, EngineError) as error:
            raise self._translated(error) from error

    def is_done(self, slot: int) -> bool:
        try:
            return bool(self._slots[slot].done.query())
        except self._drv.Error:
            return True  # finish meets it too, and says what it is

    def finish(self, slot: int) -> CameraAnswer:
        try:
            return self._finish(self._slots[slot])
        except (self._drv.Error, EngineError) as error:
            raise self._translated(error) from error

    def reload(self) -> None:
        try:
            self._unload()
            self._load()
        except self._drv.Error as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Give back graphs, network, memory, kernels, streams and context, in this order.

        Raises EngineLostError when that is not possible.
        """
        try:
            try:
                self._unload()
                self._copies = self._work = None
            finally:
                self._context.pop()
            self._context.detach()
        except (self._drv.Error, EngineError) as error:
            raise EngineLostError(f'the GPU cannot be given back: {error}') from error

    # --- loading ---

    def _load(self) -> None:
        network = self._network = self._load_network()
        _check_limits(network)
        options = KernelOptions(self.architecture, network.half_input, network.half_output)
        compiler = find_compiler()
        kernels = load_kernels(options, compiler=compiler)
        try:
            self._module = self._drv.module_from_buffer(kernels)
        except self._drv.Error as error:
            raise EngineError(
                f'the driver (CUDA {self._drv.get_driver_version() / 1000:.1f}) does not take '
                f'kernels of {compiler.version}: {error}. Update the driver, or install the NVRTC '
                "of the driver's CUDA."
            ) from error
        for name, arguments in (
            ('letterbox', 'PPiiif'),
            ('select_anchors', 'PPPii'),
            ('select_boxes', 'PPPi'),
            ('suppress', 'PPPi'),
        ):
            self._kernels[name] = self._module.get_function(name).prepare(arguments)
        self._slots = []
        grey = CameraPicture.of_bgr(np.full((32, 32, 3), 114, np.uint8))
        warm_up = CameraJob([grey] * network.input_shape[0], np.ones(MAX_CLASSES, np.float32), 0.5)
        for _ in range(SLOTS):
            slot = _Slot(self._drv, network)
            self._slots.append(slot)
            # TensorRT wants one run before a capture, and the first one allocates.
            self._start(slot, warm_up)
            self._finish(slot)
        for slot in self._slots:
            self._capture(slot)

    def _unload(self) -> None:
        if self._slots:
            self._drv.Context.synchronize()
        for slot in self._slots:
            self._drop_graph(slot)
        if self._network is not None:
            self._network.close()
            self._network = None
        for slot in self._slots:
            slot.free()
        self._slots = []
        self._kernels = {}
        self._module = None

    # --- running ---

    def _start(self, slot: _Slot, job: CameraJob) -> None:
        needed = upload_bytes(job.pictures)
        if needed > len(slot.upload_host):
            self._drop_graph(slot)
            slot.reserve(needed)
            self._capture(slot)
        # The upload stays outside of the graph: it runs while the frame before is computed, and the
        # request in front tells the kernels its size, so that one graph serves every picture.
        _, _, height, width = self.network.input_shape
        write_upload(slot.upload_host, job.pictures, height, width, job.thresholds, job.nms_iou)
        slot.raw = job.raw
        slot.pictures = len(job.pictures)
        self._drv.memcpy_htod_async(slot.upload, slot.upload_host[:needed], self._copies)
        slot.uploaded.record(self._copies)
        self._work.wait_for_event(slot.uploaded)
        if slot.graph is None:
            self._launch(slot)
        else:
            _checked(_bindings().cuGraphLaunch(slot.graph, self._stream))
        if job.raw:
            self._drv.memcpy_dtoh_async(slot.output_host, slot.output, self._work)
        slot.done.record(self._work)

    def _finish(self, slot: _Slot) -> CameraAnswer:
        slot.done.synchronize()
        answers = slot.answers_host.view(ANSWER)[: slot.pictures].copy()
        over = (answers['candidates'] > MAX_CANDIDATES) | (answers['kept'] > MAX_KEPT)
        if not slot.raw and not over.any():
            return CameraAnswer(answers, None)
        if not slot.raw:
            self._drv.memcpy_dtoh_async(slot.output_host, slot.output, self._copies)
            self._copies.synchronize()
        return CameraAnswer(answers, slot.output_host.astype(np.float32))

    def _launch(self, slot: _Slot) -> None:
        """Queue everything between upload and answer; also what a graph is captured from."""
        network, kernels, work = self.network, self._kernels, self._work
        batch, _, height, width = network.input_shape
        rgb = int(self._preprocessing.colour_order == 'rgb')
        kernels['letterbox'].prepared_async_call(
            (_blocks(width, LETTERBOX_BLOCK[0]), _blocks(height, LETTERBOX_BLOCK[1]), batch),
            LETTERBOX_BLOCK,
            work,
            *(int(slot.upload), int(slot.input), width, height, rgb, self._preprocessing.scale),
        )
        network.enqueue(work, int(slot.input), int(slot.output))
        memory = (int(slot.output), int(slot.upload), int(slot.candidates))
        anchors = guess_layout(network.output_shape) == 'anchors'
        if anchors:
            _, rows, boxes = network.output_shape
            grid = (_blocks(boxes, SELECT_BLOCK[0]), batch, 1)
            kernels['select_anchors'].prepared_async_call(
                grid, SELECT_BLOCK, work, *memory, rows - 4, boxes
            )
        else:
            boxes = network.output_shape[1]
            grid = (_blocks(boxes, SELECT_BLOCK[0]), batch, 1)
            kernels['select_boxes'].prepared_async_call(grid, SELECT_BLOCK, work, *memory, boxes)
        kernels['suppress'].prepared_async_call(
            (batch, 1, 1),
            SUPPRESS_BLOCK,
            work,
            *(int(slot.upload), int(slot.candidates), int(slot.answers), int(anchors)),
        )
        self._drv.memcpy_dtoh_async(slot.answers_host, slot.answers, work)

    # --- CUDA graph ---

    @property
    def _stream(self) -> Any:
        return _bindings().CUstream(int(self._work.handle))

    def _capture(self, slot: _Slot) -> None:
        """Put what _launch queues into one graph; where that cannot be, say why in `launches`."""
        if self._no_graph:
            return
        try:
            cu = _bindings()
        except (ImportError, RuntimeError) as error:
            self._no_graph = f"no cuda-bindings ({error}); pip install 'cuda-bindings>=13'"
            return
        try:
            self._work.synchronize()
            # Thread-local: what other threads, PyTorch's say, do meanwhile does not break it.
            mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            _checked(cu.cuStreamBeginCapture(self._stream, mode))
            try:
                self._launch(slot)
            finally:
                ended = cu.cuStreamEndCapture(self._stream)
            (graph,) = _checked(ended)
            try:
                (slot.graph,) = _checked(cu.cuGraphInstantiate(graph, 0))
            finally:
                _checked(cu.cuGraphDestroy(graph))
        except (EngineError, self._drv.Error, RuntimeError) as error:
            for captured in self._slots:
                self._drop_graph(captured)
            self._no_graph = f'the capture of a CUDA graph failed ({error})'

    def _drop_graph(self, slot: _Slot) -> None:
        if slot.graph is not None:
            _checked(_bindings().cuGraphExecDestroy(slot.graph))
            slot.graph = None

    # --- errors ---

    def _translated(self, error: Exception) -> Exception:
        """The error as this package's: no memory, lost for ever, or of this frame alone."""
        if isinstance(error, (EngineLostError, GpuMemoryError)):
            return error
        if isinstance(error, self._drv.MemoryError):
            return GpuMemoryError(f'the GPU has no memory left: {error}.')
        try:
            self._drv.Context.synchronize()
        except self._drv.Error as lasting:  # the context answers nothing else any more
            return EngineLostError(
                f'the GPU failed for good: {lasting}. '
                'Only a new process can use it again: end this one.'
            )
        if isinstance(error, EngineError):
            return error
        return EngineError(f'the GPU failed: {error}')


def _import_pycuda() -> Any:
    try:
        import pycuda.driver
    except ImportError as error:
        raise EngineError(
            f'pycuda cannot be imported ({error}). It needs an NVIDIA driver, and is built from '
            'source against the CUDA toolkit: pip install pycuda'
        ) from error
    return pycuda.driver


def _bindings() -> Any:
    from cuda.bindings import driver

    return driver


def _checked(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of cuda-bindings returned, without its status. Raises EngineError."""
    status, *values = answer
    code = int(status)
    if code == 2:  # CUDA_ERROR_OUT_OF_MEMORY
        raise GpuMemoryError('the GPU has no memory left for a graph.')
    if code:
        raise EngineError(f'CUDA answers {status.name}')
    return tuple(values)


def _check_limits(network: Network) -> None:
    batch, rows = network.input_shape[0], network.output_shape[1]
    if batch > MAX_BATCH:
        raise EngineError(f'the GPU engine takes batches up to {MAX_BATCH}, the plan has {batch}.')
    if guess_layout(network.output_shape) == 'anchors' and rows - 4 > MAX_CLASSES:
        raise EngineError(
            f'the GPU decodes at most {MAX_CLASSES} classes, the plan has {rows - 4}.'
        )


def _bytes(shape: tuple[int, ...], half: bool) -> int:
    return int(np.prod(shape)) * (2 if half else 4)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)
