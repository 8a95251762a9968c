"""An engine on an NVIDIA GPU: the camera's bytes in, boxes out, whatever computes in between.

CUDA contexts are a stack per thread: whatever touches the GPU runs in one thread, which owns the
GPU's context. A call that hangs in the driver cannot be interrupted, so callers wait with a time
limit and give the thread up.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

import numpy as np

from cone_perception.engines import EngineInfo
from cone_perception.engines.cuda.device import SLOTS, CameraAnswer, CudaDevice
from cone_perception.engines.cuda.request import (
    FORMATS,
    CameraJob,
    guess_layout,
    read_answer,
    upload_bytes,
)
from cone_perception.engines.cuda.slot import Network
from cone_perception.engines.decode import decode
from cone_perception.errors import EngineError, EngineLostError, GpuMemoryError
from cone_perception.model_card import NetworkFile, Preprocessing
from cone_perception.preprocess import View, whole_view
from cone_perception.types import CameraPicture, Detections, Float32, UInt8

LIMIT_S = 2.0
"""A frame takes about a millisecond: after this long the GPU hangs."""

LOAD_LIMIT_S = 120.0
"""The same for opening and reloading."""

_LOOK_S = 0.0001
"""While frames come faster than they are computed, a job's end is looked for this often."""


class CudaEngine:
    """An Engine and a FrameEngine. detect and run may be called from several threads.

    Two calls at once overlap: the pictures of one go up while those of the other are computed.
    overflows: views with more boxes than the GPU's lists hold, decoded on the CPU instead.
    """

    encodings = frozenset(FORMATS)
    """Encodings of sensor_msgs/Image that detect takes as the camera sends them."""

    def __init__(
        self,
        load_network: Callable[[], Network],
        preprocessing: Preprocessing,
        network: NetworkFile,
        runtime: str,
        limit_s: float = LIMIT_S,
        use_graph: bool = True,
    ) -> None:
        """load_network: called in the engine's thread, with the context current.

        limit_s: a frame that takes longer raises EngineLostError. Raises EngineError when there is
        no GPU or a library is missing, and what load_network raises.
        """
        self._worker = CudaWorker(
            lambda: CudaDevice(load_network, preprocessing, use_graph), limit_s
        )
        self._device = self._worker.device
        self.overflows = 0
        self.info = EngineInfo(
            runtime=runtime,
            device=self._device.name,
            precision=network.precision,
            input_shape=self._device.network.input_shape,
            output_shape=self._device.network.output_shape,
            network_sha256=network.sha256,
        )
        self._layout = guess_layout(self.info.output_shape)

    @property
    def launches(self) -> str:
        """Launch of the work: 'one CUDA graph', or 'plain launches: ' and the reason."""
        return self._device.launches

    @property
    def reloads(self) -> int:
        """Number of times that the network was loaded again because memory had run out."""
        return self._worker.reloads

    def run(self, pictures: UInt8) -> Float32:
        prepared = [CameraPicture.of_bgr(picture) for picture in pictures]
        classes = self.info.output_shape[1] - 4 if self._layout == 'anchors' else 1
        height_px, width_px = self.info.input_shape[2:]
        views = [whole_view(height_px, width_px, (height_px, width_px))] * len(prepared)
        job = CameraJob(prepared, views, np.ones(classes, np.float32), 1.0, raw=True)
        answer = self._worker.run(job)
        assert answer.output is not None
        return answer.output

    def detect(
        self,
        pictures: Sequence[CameraPicture],
        views: Sequence[View],
        thresholds: Float32,
        nms_iou: float,
    ) -> list[Detections]:
        batch = self.info.input_shape[0]
        if not 1 <= len(pictures) <= batch:
            raise ValueError(f'a batch takes 1 to {batch} views, got {len(pictures)}')
        if self._layout == 'anchors' and len(thresholds) != self.info.output_shape[1] - 4:
            raise EngineError(
                f'there are {len(thresholds)} thresholds for the '
                f'{self.info.output_shape[1] - 4} classes of the network'
            )
        upload_bytes(pictures)  # raises ImageError before anything is under way
        answer = self._worker.run(CameraJob(pictures, views, thresholds, nms_iou))
        found = []
        for index, one in enumerate(answer.answers):
            detections = read_answer(one, len(thresholds))
            if detections is None:
                self.overflows += 1
                assert answer.output is not None
                detections = decode(answer.output[index], self._layout, thresholds, nms_iou)
            found.append(detections)
        return found

    def close(self) -> None:
        self._worker.close()


@dataclass(frozen=True, slots=True)
class _Work:
    job: CameraJob
    answer: Future[CameraAnswer] = field(default_factory=Future)


class CudaWorker:
    """Runs jobs on the device in a thread of its own. `run` may be called from several threads.

    While one job is under way the next one is started, as far as the device has slots: its upload
    overlaps the computing of the one before.
    """

    def __init__(self, open_device: Callable[[], CudaDevice], limit_s: float) -> None:
        """open_device runs in the thread, and raises here. limit_s: a longer job hangs."""
        self._limit_s = limit_s
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._lost: EngineLostError | None = None
        self._closed = False
        self._ending = False
        self._ended: Future[None] = Future()
        self._reloading_until_s: float | None = None
        self.reloads = 0
        opened: Future[CudaDevice] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(open_device, opened), name='cuda', daemon=True
        )
        self._thread.start()
        if not wait([opened], timeout=LOAD_LIMIT_S).done:
            raise self._lose(f'the GPU was not ready after {LOAD_LIMIT_S:.0f} s')
        self.device = opened.result()

    def run(self, job: CameraJob) -> CameraAnswer:
        """Do one job and wait for it. Raises what the device raised, or EngineLostError."""
        work = _Work(job)
        with self._lock:
            if self._lost:
                raise self._lost
            if self._closed:
                raise EngineError('the engine is closed')
            self._inbox.put(work)
        while not wait([work.answer], timeout=self._limit_s).done:
            until_s = self._reloading_until_s
            if until_s is None or time.monotonic() > until_s:
                raise self._lose(f'the GPU did not answer within {self._limit_s:g} s')
        return work.answer.result()

    def close(self) -> None:
        """End the thread after the jobs that it has. Raises EngineLostError when it hangs."""
        with self._lock:
            if self._closed or self._lost:
                return
            self._closed = True
            self._inbox.put(None)
        if not wait([self._ended], timeout=LOAD_LIMIT_S).done:
            raise self._lose(f'the GPU was not given back after {LOAD_LIMIT_S:.0f} s')
        self._ended.result()
        self._thread.join()

    def _lose(self, why: str) -> EngineLostError:
        with self._lock:
            self._lost = self._lost or EngineLostError(
                f'{why}: it hangs, or its context is broken. '
                'Only a new process can use it again: end this one.'
            )
            return self._lost

    def _live(self, open_device: Callable[[], CudaDevice], opened: Future[CudaDevice]) -> None:
        try:
            device = open_device()
            opened.set_result(device)
            self._serve(device)
            device.close()
            self._ended.set_result(None)
        except EngineLostError as error:
            if not opened.done():
                opened.set_exception(error)
            self._give_up(error, [])
            self._ended.set_exception(error)
            # A broken context cannot be put down, and pycuda aborts the process when a thread ends
            # that still has one: this one lasts until the process ends.
            threading.Event().wait()
        except BaseException as error:
            opened.set_exception(error)

    def _serve(self, device: CudaDevice) -> None:
        """Do what comes until close(). Raises EngineLostError after telling who waits."""
        free = list(range(SLOTS))
        under_way: deque[tuple[int, _Work]] = deque()
        may_reload = True
        # A job that came while the one before was waited for has waited in vain. From then on the
        # end is looked for, so that the next one is started when it comes; until none does. Jobs
        # that come slower than they are computed are waited for, which is quicker by a look.
        in_haste = False
        while under_way or not self._ending:
            arrived = self._next(0.0 if under_way else None) if free and not self._ending else None
            look = in_haste and bool(under_way and free)
            while look and arrived is None and not self._ending:
                look = not device.is_done(under_way[0][0])
                arrived = self._next(_LOOK_S) if look else None
            if arrived is None and not under_way:
                continue
            slot, work = (free.pop(), arrived) if arrived is not None else under_way.popleft()
            try:
                if arrived is not None:
                    device.start(slot, work.job)
                    under_way.append((slot, work))
                    continue  # more may wait: it goes up while this one is computed
                result = device.finish(slot)
                in_haste = bool(under_way) or not self._inbox.empty()
                work.answer.set_result(result)
                may_reload = True
            except GpuMemoryError as error:
                work.answer.set_exception(error)
                for other_slot, other in under_way:
                    other.answer.set_exception(error)
                    free.append(other_slot)
                under_way.clear()
                self._reload(device, error, may_reload)
                may_reload = False
            except EngineLostError as error:
                self._give_up(error, [work, *(other for _, other in under_way)])
                raise
            except BaseException as error:
                work.answer.set_exception(error)
            free.append(slot)

    def _next(self, timeout_s: float | None = 0.0) -> _Work | None:
        """The next job, or None where there is none in time; notes when there will be no more."""
        try:
            work = self._inbox.get(block=timeout_s != 0, timeout=timeout_s)
        except queue.Empty:
            return None
        self._ending = work is None
        return work

    def _reload(self, device: CudaDevice, reason: GpuMemoryError, may_reload: bool) -> None:
        if not may_reload:
            raise EngineLostError(
                f'{reason} The plan was loaded again already, which did not help.'
            )
        self._reloading_until_s = time.monotonic() + LOAD_LIMIT_S
        try:
            device.reload()
            self.reloads += 1
        except Exception as error:
            what = f'{reason} The plan cannot be loaded again: {error}'
            raise EngineLostError(what) from error
        finally:
            self._reloading_until_s = None

    def _give_up(self, error: EngineLostError, waiting: list[_Work]) -> None:
        with self._lock:
            self._lost = self._lost or error
        while (work := self._next()) is not None:
            waiting.append(work)
        for work in waiting:
            work.answer.set_exception(error)
