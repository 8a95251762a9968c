"""Sampling of processes and of the GPU."""

from __future__ import annotations

import builtins
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from waiting import wait_until

from cone_perception.errors import InstallError
from cone_perception.replay.load import LoadSampler
from cone_perception.replay.traces import LoadSample

psutil = pytest.importorskip('psutil')

WAITS = 'import sys; sys.stdin.read()'
HOLDS_60_MB = 'import sys; block = b"x" * 60_000_000; print("ready", flush=True); sys.stdin.read()'
STARTS_ANOTHER = (
    f'import subprocess, sys; child = subprocess.Popen([sys.executable, "-c", {HOLDS_60_MB!r}], '
    'stdin=subprocess.PIPE); sys.stdin.read(); child.stdin.close(); child.wait()'
)


@contextmanager
def running(code: str, ready: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if ready:
            assert process.stdout.readline() == b'ready\n'
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def of(samples: list[LoadSample], who: str) -> list[LoadSample]:
    return [sample for sample in samples if sample.who == who]


@pytest.fixture(autouse=True)
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as without nvidia-ml-py, whatever this machine has."""
    monkeypatch.setitem(sys.modules, 'pynvml', None)


def test_samples_come_by_themselves_until_it_ends() -> None:
    with running(WAITS) as process:
        sampler = LoadSampler({'node': process.pid}, period_s=0.01)
        with sampler:
            wait_until(lambda: len(sampler.samples) >= 3)
        taken = list(sampler.samples)
        assert not [t for t in threading.enumerate() if t.name == 'load sampler']
    assert sampler.samples == taken
    times_ns = [sample.time_ns for sample in taken]
    assert times_ns == sorted(times_ns)
    assert {sample.who for sample in taken} == {'node'}


def test_the_first_sample_knows_no_cpu_and_later_ones_do() -> None:
    with running(WAITS) as process:
        sampler = LoadSampler({'node': process.pid})
        sampler.sample()
        sampler.sample()
    first, second = sampler.samples
    assert set(first.values) == {'memory_mb', 'threads'}
    assert set(second.values) == {'memory_mb', 'threads', 'cpu_cores'}
    assert second.values['cpu_cores'] >= 0


class ScriptedProcess:
    """A process as psutil shows it, whose work is told by the test. processes: pid -> it."""

    processes: ClassVar[dict[int, ScriptedProcess]] = {}

    def __init__(self, pid: int, cpu_s: float, parent: int | None = None) -> None:
        self.pid = pid
        self.cpu_s = cpu_s
        self.parent = parent
        self.processes[pid] = self

    def alive(self) -> None:
        if self.pid not in self.processes:
            raise psutil.NoSuchProcess(self.pid)

    def is_running(self) -> bool:
        return self.pid in self.processes

    def status(self) -> str:
        return 'sleeping'

    def children(self, recursive: bool) -> list[ScriptedProcess]:
        assert recursive
        return [each for each in self.processes.values() if each.parent == self.pid]

    def oneshot(self) -> nullcontext[None]:
        return nullcontext()

    def cpu_times(self) -> SimpleNamespace:
        self.alive()
        return SimpleNamespace(user=self.cpu_s - 0.25, system=0.25)

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=2_000_000)

    def num_threads(self) -> int:
        return 1

    def create_time(self) -> float:
        return 0.0


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Processes that do what the test says; a call sets the clock, in seconds."""
    now_s = [0]
    monkeypatch.setattr(ScriptedProcess, 'processes', {})
    monkeypatch.setattr(psutil, 'Process', lambda pid: ScriptedProcess.processes[pid])
    monkeypatch.setattr(time, 'monotonic_ns', lambda: now_s[0] * 10**9)
    return lambda seconds: now_s.__setitem__(0, seconds)


def test_cpu_is_work_per_time(scripted: Callable[[int], None]) -> None:
    """A process that has worked 3 s in 2 s kept 1.5 cores busy."""
    node = ScriptedProcess(7, cpu_s=10.0)
    sampler = LoadSampler({'node': 7})
    scripted(1)
    sampler.sample()
    node.cpu_s = 13.0
    scripted(3)
    sampler.sample()
    assert sampler.samples[1] == LoadSample(
        'node', 3 * 10**9, {'memory_mb': 2.0, 'threads': 1.0, 'cpu_cores': 1.5}
    )


def test_work_of_children_counts_and_is_not_taken_back_when_they_end(
    scripted: Callable[[int], None],
) -> None:
    ScriptedProcess(7, cpu_s=10.0)
    child = ScriptedProcess(8, cpu_s=100.0, parent=7)
    sampler = LoadSampler({'node': 7})
    for second in (1, 2):
        scripted(second)
        sampler.sample()
        child.cpu_s += 0.5
    del ScriptedProcess.processes[8]
    scripted(3)
    sampler.sample()
    cores = [sample.values.get('cpu_cores') for sample in sampler.samples]
    assert cores == [None, 0.5, 0.0]
    assert [sample.values['memory_mb'] for sample in sampler.samples] == [4.0, 4.0, 2.0]


def test_a_child_that_starts_later_is_found_with_the_work_it_has_done(
    scripted: Callable[[int], None],
) -> None:
    ScriptedProcess(7, cpu_s=10.0)
    sampler = LoadSampler({'node': 7})
    for second in range(8):
        if second == 1:
            ScriptedProcess(8, cpu_s=0.75, parent=7)
        scripted(second)
        sampler.sample()
    assert sum(sample.values.get('cpu_cores', 0) for sample in sampler.samples) == 0.75


def test_memory_is_in_millions_of_bytes() -> None:
    with running(HOLDS_60_MB, ready=True) as process:
        sampler = LoadSampler({'node': process.pid})
        sampler.sample()
    assert 60 < sampler.samples[0].values['memory_mb'] < 120


def test_what_a_process_started_counts_with_it() -> None:
    with running(STARTS_ANOTHER, ready=True) as process:
        sampler = LoadSampler({'node': process.pid})
        sampler.sample()
    values = sampler.samples[0].values
    assert values['memory_mb'] > 60
    assert values['threads'] >= 2


def test_a_process_that_ends_is_left_out_and_the_others_go_on() -> None:
    with running(WAITS) as stays:
        with running(WAITS) as ends:
            sampler = LoadSampler({'player': ends.pid, 'node': stays.pid})
            sampler.sample()
        sampler.sample()
        sampler.sample()
    assert len(of(sampler.samples, 'player')) == 1
    assert len(of(sampler.samples, 'node')) == 3


def test_a_process_that_has_ended_but_was_not_waited_for_is_left_out() -> None:
    process = subprocess.Popen([sys.executable, '-c', ''])
    sampler = LoadSampler({'node': process.pid})
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    sampler.sample()
    process.wait()
    assert sampler.samples == []


def test_a_process_that_never_was_is_no_error() -> None:
    with running(WAITS) as process:
        pid = process.pid
    with LoadSampler({'node': pid}, period_s=0.01) as sampler:
        pass
    assert sampler.samples == []


def test_without_psutil_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'psutil', None)
    with pytest.raises(InstallError, match=r'cone_perception\[replay\]'):
        LoadSampler({'node': 1})


def test_without_psutil_the_module_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition('.')[0] in ('psutil', 'pynvml'):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, 'cone_perception.replay.load')
    monkeypatch.setattr(builtins, '__import__', refuse)
    __import__('cone_perception.replay.load')


class NvmlError(Exception):
    pass


def refuse(*_: Any) -> Any:
    raise NvmlError('not supported')


def nvml(**changes: Any) -> ModuleType:
    """The functions of nvidia-ml-py, for a GPU that tells everything."""
    module = ModuleType('pynvml')
    answers: dict[str, Any] = {
        'NVMLError': NvmlError,
        'NVML_CLOCK_SM': 1,
        'NVML_TEMPERATURE_GPU': 0,
        'nvmlInit': lambda: None,
        'nvmlShutdown': lambda: None,
        'nvmlDeviceGetHandleByIndex': lambda index: f'handle {index}',
        'nvmlDeviceGetUtilizationRates': lambda handle: SimpleNamespace(gpu=37, memory=5),
        'nvmlDeviceGetMemoryInfo': lambda handle: SimpleNamespace(used=1_500_000_000),
        'nvmlDeviceGetClockInfo': lambda handle, clock: 1980,
        'nvmlDeviceGetTemperature': lambda handle, sensor: 61,
        'nvmlDeviceGetPowerUsage': lambda handle: 215_500,
    }
    vars(module).update(answers | changes)
    return module


def test_gpu_is_told_in_the_units_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'pynvml', nvml())
    sampler = LoadSampler({})
    sampler.sample()
    assert sampler.samples[0].who == 'gpu'
    assert sampler.samples[0].values == {
        'load_percent': 37,
        'memory_mb': 1500,
        'clock_mhz': 1980,
        'temperature_c': 61,
        'power_w': 215.5,
    }


def test_a_gpu_that_does_not_tell_its_power_tells_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'pynvml', nvml(nvmlDeviceGetPowerUsage=refuse))
    sampler = LoadSampler({})
    sampler.sample()
    assert 'power_w' not in sampler.samples[0].values
    assert sampler.samples[0].values['load_percent'] == 37


@pytest.mark.parametrize('broken', ['nvmlInit', 'nvmlDeviceGetHandleByIndex'])
def test_without_a_driver_or_a_gpu_there_are_no_gpu_samples(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'pynvml', nvml(**{broken: refuse}))
    with LoadSampler({}, period_s=0.01) as sampler:
        pass
    assert sampler.samples == []


def test_nvml_is_closed_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setitem(sys.modules, 'pynvml', nvml(nvmlShutdown=lambda: closed.append(True)))
    with LoadSampler({}, period_s=0.01):
        assert closed == []
    assert closed == [True]
