"""The thread that owns the GPU: jobs overlap, hangs are seen, lost memory gets a second try."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from cone_perception.engines.cuda.engine import CudaWorker
from cone_perception.errors import EngineError, EngineLostError, GpuMemoryError


@dataclass
class Adder:
    """A device whose jobs are numbers, or exceptions to raise; notes all that is done to it."""

    log: list[str] = field(default_factory=list)
    started: dict[int, object] = field(default_factory=dict)
    threads: set[str] = field(default_factory=set)
    hold: threading.Event | None = None
    computed: dict[object, threading.Event] = field(default_factory=dict)
    reload_fails: bool = False

    def start(self, slot: int, job: object) -> None:
        self.threads.add(threading.current_thread().name)
        self.log.append(f'start {job!r}')
        if isinstance(job, tuple):
            raise job[0]
        self.started[slot] = job

    def is_done(self, slot: int) -> bool:
        """A number is computed when the test says so; what fails, at once."""
        computed = self.computed.get(self.started[slot])
        return computed is None or computed.is_set()

    def finish(self, slot: int) -> int:
        job = self.started.pop(slot)
        self.log.append(f'finish {job!r}')
        if self.hold is not None:
            self.hold.wait()
        if job in self.computed:
            self.computed[job].wait()
        if isinstance(job, BaseException):
            raise job
        assert isinstance(job, int)
        return job + 1

    def reload(self) -> None:
        self.log.append('reload')
        if self.reload_fails:
            raise EngineError('no room')

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.log.append('close')


def worker_of(device: Adder, limit_s: float = 30.0) -> CudaWorker:
    return CudaWorker(lambda: device, limit_s)


def wait_until_all_came(worker: CudaWorker, device: Adder, jobs: int) -> None:
    """Until each job was started or waits to be, and the first one is being waited for."""
    while True:
        started = sum(line.startswith('start') for line in device.log)
        if started + worker._inbox.qsize() == jobs and len(device.log) > started:
            return
        time.sleep(0.01)


def test_everything_runs_in_one_thread_which_ends():
    device = Adder()
    worker = worker_of(device)
    assert [worker.run(job) for job in (1, 2, 3)] == [2, 3, 4]
    worker.close()
    worker.close()
    assert device.threads == {'cuda'}
    assert device.log[-1] == 'close'
    assert not worker._thread.is_alive()
    with pytest.raises(EngineError, match='closed'):
        worker.run(1)


def test_next_job_starts_while_one_is_under_way():
    device = Adder(hold=threading.Event())
    worker = worker_of(device)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(worker.run, job) for job in (1, 2, 3)]
        wait_until_all_came(worker, device, 3)
        device.hold.set()
        assert [answer.result() for answer in answers] == [2, 3, 4]
    worker.close()
    # However many were up before the first was waited for: two are, before any other is waited for.
    kinds = ' '.join(line.split()[0] for line in device.log)
    assert kinds in (
        'start finish start start finish finish close',
        'start start finish start finish finish close',
    )


def test_job_that_comes_while_one_is_computed_is_started_when_frames_come_faster():
    """Two callers, each with its next job when it has its answer: what the node's threads do."""
    jobs = range(1, 7)
    device = Adder(computed={job: threading.Event() for job in jobs})
    worker = worker_of(device)

    def wait_for(line: str) -> None:
        until = time.monotonic() + 30
        while line not in device.log:
            assert time.monotonic() < until, f'no {line} in {device.log}'
            time.sleep(0.001)

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(worker.run, 1)]
        wait_for('finish 1')  # nothing else came: the first is waited for
        answers.append(pool.submit(worker.run, 2))
        while not worker._inbox.qsize():
            time.sleep(0.001)
        device.computed[1].set()
        for job in jobs[1:-1]:
            wait_for(f'start {job}')
            time.sleep(0.02)  # it is computed
            assert f'finish {job}' not in device.log
            answers.append(pool.submit(worker.run, job + 1))
            wait_for(f'start {job + 1}')  # and the next goes up meanwhile
            device.computed[job].set()
            assert answers[job - 1].result(30) == job + 1
        device.computed[6].set()
        assert [answer.result(30) for answer in answers] == [job + 1 for job in jobs]
        # Alone again, it is waited for, not looked for.
        device.computed[7] = threading.Event()
        pool.submit(worker.run, 7)
        wait_for('finish 7')
        device.computed[7].set()
    worker.close()


def test_end_and_hang_are_met_while_a_job_s_end_is_looked_for():
    device = Adder(computed={1: threading.Event(), 2: threading.Event()})
    worker = worker_of(device, limit_s=0.5)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(worker.run, job) for job in (1, 2)]
        wait_until_all_came(worker, device, 2)
        device.computed[1].set()
        assert answers[0].result(30) == 2
        with pytest.raises(EngineLostError, match=r'within 0\.5 s'):
            answers[1].result(30)
    with pytest.raises(EngineLostError):
        worker.run(3)
    device.computed[2].set()
    worker.close()


def test_error_of_one_job_is_its_own():
    worker = worker_of(Adder())
    with pytest.raises(EngineError, match='bad frame'):
        worker.run(EngineError('bad frame'))
    with pytest.raises(ValueError, match='at start'):
        worker.run((ValueError('at start'),))
    assert worker.run(1) == 2
    worker.close()


def test_device_that_cannot_be_opened_says_why():
    def refuse() -> Adder:
        raise EngineError('no GPU')

    with pytest.raises(EngineError, match='no GPU'):
        CudaWorker(refuse, 1.0)


def test_hang_is_seen_from_outside_and_lasts():
    device = Adder(hold=threading.Event())
    worker = worker_of(device, limit_s=0.05)
    with pytest.raises(EngineLostError, match=r'within 0\.05 s'):
        worker.run(1)
    with pytest.raises(EngineLostError):
        worker.run(1)
    worker.close()  # does not wait for what hangs
    device.hold.set()


@pytest.mark.parametrize('at_start', [True, False])
def test_no_memory_fails_the_frame_and_loads_again(at_start):
    device = Adder()
    worker = worker_of(device)
    full = GpuMemoryError('full.')
    for _ in range(2):
        with pytest.raises(GpuMemoryError):
            worker.run((full,) if at_start else full)
        assert worker.run(1) == 2
    assert worker.reloads == 2
    worker.close()


def test_no_memory_right_after_loading_again_is_lost():
    device = Adder()
    worker = worker_of(device)
    with pytest.raises(GpuMemoryError):
        worker.run(GpuMemoryError('full.'))
    with pytest.raises(GpuMemoryError):
        worker.run(GpuMemoryError('full.'))
    with pytest.raises(EngineLostError, match='did not help'):
        worker.run(1)
    assert device.log.count('reload') == 1


def test_plan_that_cannot_be_loaded_again_is_lost():
    worker = worker_of(Adder(reload_fails=True))
    with pytest.raises(GpuMemoryError):
        worker.run(GpuMemoryError('full.'))
    with pytest.raises(EngineLostError, match='no room'):
        worker.run(1)


def test_lost_context_ends_all_that_wait_and_is_never_touched_again():
    device = Adder(hold=threading.Event())
    worker = worker_of(device)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(worker.run, EngineLostError('illegal address'))]
        wait_until_all_came(worker, device, 1)
        answers += [pool.submit(worker.run, job) for job in (2, 3)]
        wait_until_all_came(worker, device, 3)
        device.hold.set()
        errors = [answer.exception() for answer in answers]
    assert all(isinstance(error, EngineLostError) for error in errors)
    with pytest.raises(EngineLostError, match='illegal address'):
        worker.run(1)
    worker.close()
    assert 'close' not in device.log
