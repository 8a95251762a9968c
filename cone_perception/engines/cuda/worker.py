"""A thread owns the GPU's context; it is watched from outside.

CUDA contexts are a stack per thread: whatever touches the GPU runs in here. A call that hangs in
the driver cannot be interrupted, so callers wait with a time limit and give the thread up.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from cone_perception.engines.cuda.device import CameraAnswer, CameraJob, CudaDevice
from cone_perception.errors import EngineError, EngineLostError, GpuMemoryError

_POLL_S = 0.05

_LOOK_S = 0.0001
"""While frames come faster than they are computed, a job's end is looked for this often."""


@dataclass(frozen=True, slots=True)
class _Work:
    job: CameraJob
    answer: Future[CameraAnswer] = field(default_factory=Future)


class CudaWorker:
    """Runs jobs on the device in a thread of its own. `run` may be called from several threads.

    While one job is under way the next one is started, as far as the device has slots: its upload
    overlaps the computing of the one before.
    """

    def __init__(
        self,
        open_device: Callable[[], CudaDevice],
        limit_s: float,
        load_limit_s: float = 120.0,
    ) -> None:
        """open_device runs in the thread; what it raises is raised here.

        limit_s: a job that takes longer hangs. load_limit_s: the same for opening and reloading.
        """
        self._limit_s = limit_s
        self._load_limit_s = load_limit_s
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._lost: EngineLostError | None = None
        self._closed = False
        self._ending = False
        self._stuck = threading.Event()
        self._reloading_until_s: float | None = None
        self.reloads = 0
        opened: Future[CudaDevice] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(open_device, opened), name='cuda', daemon=True
        )
        self._thread.start()
        if not wait([opened], timeout=load_limit_s).done:
            raise self._lose(f'the GPU was not ready after {load_limit_s:.0f} s')
        opened.result()

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
        until_s = time.monotonic() + self._load_limit_s
        while self._thread.is_alive():
            self._thread.join(_POLL_S)
            if self._stuck.is_set() or time.monotonic() > until_s:
                raise self._lose(f'the GPU was not given back after {self._load_limit_s:.0f} s')

    def _lose(self, why: str) -> EngineLostError:
        with self._lock:
            self._lost = self._lost or EngineLostError(
                f'{why}: it hangs, or its context is broken. '
                'Only a new process can use it again: end this one.'
            )
            return self._lost

    def _live(
        self,
        open_device: Callable[[], CudaDevice],
        opened: Future[CudaDevice],
    ) -> None:
        try:
            device = open_device()
        except EngineLostError as error:
            opened.set_exception(error)
            self._stay()
        except BaseException as error:
            opened.set_exception(error)
            return
        try:
            opened.set_result(device)
            self._serve(device)
            device.close()
        except EngineLostError as error:
            self._give_up(error, [])
            self._stay()

    def _stay(self) -> None:
        """Never return: pycuda aborts the process when a thread ends that still has a context.

        A broken context cannot be put down, so this thread lasts until the process ends.
        """
        self._stuck.set()
        threading.Event().wait()

    def _serve(self, device: CudaDevice) -> None:
        """Do what comes until close(). Raises EngineLostError after telling who waits."""
        free = list(range(device.slots))
        under_way: deque[tuple[int, _Work]] = deque()
        may_reload = True
        # A job that came while the one before was waited for has waited in vain. From then on the
        # end is looked for, so that the next one is started when it comes; until none does. Jobs
        # that come slower than they are computed are waited for, which is quicker by a look.
        in_haste = False
        while under_way or not self._ending:
            arrived = self._next(wait_for_it=not under_way) if free and not self._ending else None
            if in_haste and arrived is None and under_way and free and not self._ending:
                arrived = self._next_before_end(device, under_way[0][0])
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

    def _next(self, wait_for_it: bool) -> _Work | None:
        """The next job, or None where there is none now; notes when there will be no more."""
        try:
            work = self._inbox.get(block=wait_for_it)
        except queue.Empty:
            return None
        self._ending = work is None
        return work

    def _next_before_end(self, device: CudaDevice, slot: int) -> _Work | None:
        """The next job; None when the slot's is done before one comes."""
        while not device.is_done(slot):
            with contextlib.suppress(queue.Empty):
                work = self._inbox.get(timeout=_LOOK_S)
                self._ending = work is None
                return work
        return None

    def _reload(self, device: CudaDevice, reason: GpuMemoryError, may_reload: bool) -> None:
        lost: EngineLostError
        if not may_reload:
            lost = EngineLostError(
                f'{reason} The plan was loaded again already, which did not help.'
            )
        else:
            self._reloading_until_s = time.monotonic() + self._load_limit_s
            try:
                device.reload()
                self.reloads += 1
                return
            except Exception as error:
                lost = EngineLostError(f'{reason} The plan cannot be loaded again: {error}')
                lost.__cause__ = error
            finally:
                self._reloading_until_s = None
        self._give_up(lost, [])
        raise lost

    def _give_up(self, error: EngineLostError, waiting: list[_Work]) -> None:
        with self._lock:
            self._lost = self._lost or error
        while (work := self._next(wait_for_it=False)) is not None:
            waiting.append(work)
        for work in waiting:
            work.answer.set_exception(error)
