"""One NVIDIA GPU through pycuda: upload, letterbox, network, decoding, 22 kB a view back.

Everything in here runs in one thread, the one that made the object (see engine.py). It shares the
GPU's primary context, so that PyTorch in the same process works on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cone_perception.engines.cuda.compile import compiler_arguments, find_compiler, load_kernels
from cone_perception.engines.cuda.request import (
    ANSWER,
    MAX_BATCH,
    MAX_CANDIDATES,
    MAX_CLASSES,
    MAX_KEPT,
    CameraJob,
    guess_layout,
    upload_bytes,
    write_upload,
)
from cone_perception.engines.cuda.slot import CudaGraph, Network, Slot
from cone_perception.errors import EngineError, EngineLostError, GpuMemoryError, told_as
from cone_perception.model_card import Preprocessing
from cone_perception.preprocess import whole_view
from cone_perception.types import CameraPicture, Float32

SLOTS = 2
"""Frames under way at once: one goes up while the other is computed."""

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for PyTorch's default stream in the same process."""

LETTERBOX_BLOCK, DECODE_BLOCK = (32, 8, 1), (256, 1, 1)

KERNELS = {
    'letterbox': ('PPiiif', LETTERBOX_BLOCK), 'select_anchors': ('PPPii', DECODE_BLOCK),
    'select_boxes': ('PPPi', DECODE_BLOCK), 'suppress': ('PPPPii', DECODE_BLOCK),
}  # fmt: skip
"""Name -> types of its arguments, as pycuda writes them, and threads of a block."""


@dataclass(frozen=True, slots=True)
class CameraAnswer:
    """answers: (B,) of ANSWER. output: the network's, where asked for or where a list ran over."""

    answers: npt.NDArray[np.void]
    output: Float32 | None


class CudaDevice:
    """Runs a network on camera pictures, up to SLOTS jobs at once.

    start and finish raise GpuMemoryError, EngineLostError, or what is wrong with the job alone.
    """

    def __init__(
        self,
        load_network: Callable[[], Network],
        preprocessing: Preprocessing,
        use_graph: bool = True,
    ) -> None:
        """load_network: called with the context current, also by reload(). Raises EngineError."""
        self._drv = import_pycuda()
        self._load_network = load_network
        self._preprocessing = preprocessing
        self._network: Network | None = None
        self.slots: list[Slot] = []
        self._module: Any = None
        self._kernels: dict[str, Any] = {}
        self._no_graph = '' if use_graph else 'a graph was not wanted'
        what = 'there is no NVIDIA GPU that can be used'
        advice = 'Look at nvidia-smi, or run on the CPU.'
        with told_as(EngineError, what, self._drv.Error, advice=advice):
            self._drv.init()
            gpu = self._drv.Device(0)
            self.name = str(gpu.name())
            major, minor = gpu.compute_capability()
            self.architecture = major * 10 + minor
            self._context = gpu.retain_primary_context()
        self._context.push()
        try:
            with self._translating():
                self._copies = self._drv.Stream(_NON_BLOCKING)
                self.stream = self._drv.Stream(_NON_BLOCKING)
                self._load()
        except EngineLostError:
            raise
        except BaseException:
            self.close()
            raise

    @property
    def launches(self) -> str:
        """Launch of the work: 'one CUDA graph', or 'plain launches: ' and the reason."""
        return f'plain launches: {self._no_graph}' if self._no_graph else 'one CUDA graph'

    @property
    def network(self) -> Network:
        assert self._network is not None
        return self._network

    def reload(self) -> None:
        """Give back all memory and load again."""
        with self._translating():
            self._unload()
            self._load()

    def close(self) -> None:
        """Give all back, the context last. Raises EngineLostError when that is not possible."""
        try:
            try:
                self._unload()
                self._copies = self.stream = None
            finally:
                self._context.pop()
            self._context.detach()
        except (self._drv.Error, EngineError) as error:
            raise EngineLostError(f'the GPU cannot be given back: {error}') from error

    # --- loading ---

    def _load(self) -> None:
        network = self._network = self._load_network()
        batch, rows = network.input_shape[0], network.output_shape[1]
        if batch > MAX_BATCH:
            raise EngineError(f'the GPU takes batches up to {MAX_BATCH}, the plan has {batch}.')
        if guess_layout(network.output_shape) == 'anchors' and rows - 4 > MAX_CLASSES:
            raise EngineError(
                f'the GPU decodes at most {MAX_CLASSES} classes, the plan has {rows - 4}.'
            )
        halves = network.half_input, network.half_output
        compiler = find_compiler()
        kernels = load_kernels(compiler_arguments(self.architecture, *halves), compiler)
        cuda = f'CUDA {self._drv.get_driver_version() / 1000:.1f}'
        what = f'the driver ({cuda}) does not take kernels of {compiler.version}'
        advice = "Update the driver, or install the NVRTC of the driver's CUDA."
        with told_as(EngineError, what, self._drv.Error, advice=advice):
            self._module = self._drv.module_from_buffer(kernels)
        for name, (arguments, _) in KERNELS.items():
            self._kernels[name] = self._module.get_function(name).prepare(arguments)
        self.slots = []
        grey = CameraPicture.of_bgr(np.full((32, 32, 3), 114, np.uint8))
        _, _, height_px, width_px = network.input_shape
        view = whole_view(32, 32, (height_px, width_px))
        ones = np.ones(MAX_CLASSES, np.float32)
        warm_up = CameraJob([grey] * batch, [view] * batch, ones, 0.5)
        for _ in range(SLOTS):
            self.slots.append(Slot(self._drv, network))
            # TensorRT wants one run before a capture, and the first one allocates.
            self.start(-1, warm_up)
            self.finish(-1)
        for slot in self.slots:
            self._capture(slot)

    def _unload(self) -> None:
        if self.slots:
            self._drv.Context.synchronize()
        for slot in self.slots:
            slot.drop_graph()
        if self._network is not None:
            self._network.close()
            self._network = None
        for slot in self.slots:
            slot.free()
        self.slots = []
        self._kernels = {}
        self._module = None

    # --- running ---

    def start(self, place: int, job: CameraJob) -> None:
        """Begin a job in the slot at `place`; return before it is done."""
        slot, needed = self.slots[place], upload_bytes(job.pictures)
        with self._translating():
            if needed > len(slot.upload_host):
                slot.drop_graph()
                slot.reserve(needed)
                self._capture(slot)
            # The upload stays outside of the graph: it runs while the frame before is computed, and
            # the request in front tells the kernels its size, so one graph serves every picture.
            write_upload(slot.upload_host, job)
            slot.pictures, slot.raw = len(job.pictures), job.raw
            self._drv.memcpy_htod_async(slot.upload, slot.upload_host[:needed], self._copies)
            slot.uploaded.record(self._copies)
            self.stream.wait_for_event(slot.uploaded)
            if slot.graph is None:
                self._launch(slot)
            else:
                slot.graph.launch()
            if job.raw:
                self._drv.memcpy_dtoh_async(slot.output_host, slot.output, self.stream)
            slot.done.record(self.stream)

    def is_done(self, slot: int) -> bool:
        """True where finish would return at once, or raise. Never raises."""
        try:
            return bool(self.slots[slot].done.query())
        except self._drv.Error:
            return True  # finish meets it too, and says what it is

    def finish(self, place: int) -> CameraAnswer:
        """Wait for the slot's job."""
        slot = self.slots[place]
        with self._translating():
            slot.done.synchronize()
            answers = slot.answers_host.view(ANSWER)[: slot.pictures].copy()
            over = (answers['candidates'] > MAX_CANDIDATES) | (answers['kept'] > MAX_KEPT)
            if not slot.raw and not over.any():
                return CameraAnswer(answers, None)
            if not slot.raw:
                self._drv.memcpy_dtoh_async(slot.output_host, slot.output, self._copies)
                self._copies.synchronize()
            return CameraAnswer(answers, slot.output_host.astype(np.float32))

    def _launch(self, slot: Slot) -> None:
        """Queue everything between upload and answer; also what a graph is captured from."""
        self.letterbox(slot)
        self.network.enqueue(self.stream, int(slot.input), int(slot.output))
        self.decode(slot)

    def letterbox(self, slot: Slot) -> None:
        """Queue: the views of what was uploaded -> the network's input."""
        batch, _, height, width = self.network.input_shape
        rgb = int(self._preprocessing.colour_order == 'rgb')
        memory, scale = (slot.upload, slot.input), self._preprocessing.scale
        self._call('letterbox', (width, height, batch), memory, width, height, rgb, scale)

    def decode(self, slot: Slot) -> None:
        """Queue: the network's output -> the answer, in this process's memory."""
        batch, rows, boxes = self.network.output_shape
        memory = (slot.output, slot.upload, slot.candidates)
        classes = 0
        if guess_layout(self.network.output_shape) == 'anchors':
            classes = rows - 4
            self._call('select_anchors', (boxes, batch, 1), memory, classes, boxes)
        else:
            self._call('select_boxes', (rows, batch, 1), memory, rows)
        one_block_each = (batch * DECODE_BLOCK[0], 1, 1)
        self._call('suppress', one_block_each, (*memory, slot.answers), classes, boxes)
        self._drv.memcpy_dtoh_async(slot.answers_host, slot.answers, self.stream)

    def _call(
        self,
        kernel: str,
        threads: tuple[int, int, int],
        memory: Sequence[Any],
        *numbers: float,
    ) -> None:
        _, block = KERNELS[kernel]
        grid = tuple(-(-count // size) for count, size in zip(threads, block, strict=True))
        call = self._kernels[kernel].prepared_async_call
        call(grid, block, self.stream, *map(int, memory), *numbers)

    def _capture(self, slot: Slot) -> None:
        """Put what _launch queues into one graph; where that cannot be, say why in `launches`."""
        if self._no_graph:
            return
        try:
            self.stream.synchronize()
            slot.graph = CudaGraph(self.stream, lambda: self._launch(slot))
        except ImportError as error:
            self._no_graph = f"no cuda-bindings ({error}); pip install 'cuda-bindings>=13'"
        except (EngineError, self._drv.Error, RuntimeError) as error:
            for captured in self.slots:
                captured.drop_graph()
            self._no_graph = f'the capture of a CUDA graph failed ({error})'

    # --- errors ---

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Raise pycuda's errors as this package's: no memory, lost for ever, or this frame's."""
        try:
            yield
        except (EngineLostError, GpuMemoryError):
            raise
        except self._drv.MemoryError as error:
            raise GpuMemoryError(f'the GPU has no memory left: {error}.') from error
        except (self._drv.Error, EngineError) as error:
            try:
                self._drv.Context.synchronize()
            except self._drv.Error as lasting:  # the context answers nothing else any more
                raise EngineLostError(
                    f'the GPU failed for good: {lasting}. '
                    'Only a new process can use it again: end this one.'
                ) from error
            if isinstance(error, EngineError):
                raise
            raise EngineError(f'the GPU failed: {error}') from error


def import_pycuda() -> Any:
    """The module pycuda.driver. Raises EngineError that says what it needs."""
    advice = (
        'It needs an NVIDIA driver, and is built from source against the CUDA toolkit: '
        "pip install pycuda, or 'cone_perception[tensorrt]'"
    )
    with told_as(EngineError, 'pycuda cannot be imported', ImportError, advice=advice):
        import pycuda.driver
    return pycuda.driver
