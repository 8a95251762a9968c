"""Samples of the load of a replay's processes and of the GPU."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cone_perception.errors import InstallError
from cone_perception.replay.traces import LoadSample

MB = 1e6


class LoadSampler:
    """Samples processes, each with all that it started, and the first GPU, in a thread of its own.

    pids: who -> process id. A process that has ended is left out from then on; what of its work the
    last sample has not seen is lost. The first sample of each has no cpu_cores: there is nothing
    before it. `samples` grows while the sampler runs and stays after it.
    The GPU's samples need nvidia-ml-py; without it, or without a GPU, there are none.
    Raises InstallError without psutil.
    """

    def __init__(self, pids: Mapping[str, int], period_s: float = 0.5) -> None:
        try:
            psutil: Any = importlib.import_module('psutil')
        except ImportError as error:
            raise InstallError(
                'psutil is missing, which measures CPU and memory. '
                "Install it: pip install 'cone_perception[replay]', or apt install python3-psutil."
            ) from error
        self.samples: list[LoadSample] = []
        self._period_s = period_s
        self._closing = contextlib.ExitStack()
        self._sampled = [_ProcessTree(psutil, who, pid).sample for who, pid in pids.items()]
        self._sampled.append(_sample_of_gpu(self._closing))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name='load sampler', daemon=True)

    def __enter__(self) -> LoadSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.sample()
        self._closing.close()

    def sample(self) -> None:
        """Take one sample of everything now. The thread calls it."""
        taken = [sample() for sample in self._sampled]
        self.samples += [sample for sample in taken if sample is not None]

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._ended.wait(max(0.0, due_s - time.monotonic())):
            self.sample()
            # Samples that a busy machine has missed are not made up for in a burst.
            due_s = max(due_s + self._period_s, time.monotonic())


class _ProcessTree:
    """A process and all that it started."""

    def __init__(self, psutil: Any, who: str, pid: int) -> None:
        self._psutil = psutil
        self._who = who
        self._children: list[Any] = []
        self._number = 0
        self._last_ns = 0
        self._last_cpu_s: dict[tuple[int, float], float] | None = None
        self._root: Any = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._root = psutil.Process(pid)

    def sample(self) -> LoadSample | None:
        """None once the process has ended."""
        now_ns = time.monotonic_ns()
        cpu_s: dict[tuple[int, float], float] = {}
        memory_mb = threads = 0.0
        try:
            root, zombie = self._root, self._psutil.STATUS_ZOMBIE
            # A zombie is still there, but it holds nothing.
            if root is None or not root.is_running() or root.status() == zombie:
                return None
            if self._number % 4 == 0:  # finding them reads the whole of /proc
                self._children = root.children(recursive=True)
        except self._psutil.Error:
            return None
        self._number += 1
        for process in (root, *self._children):
            # One that ends meanwhile, or whose memory may not be read, is left out.
            with contextlib.suppress(self._psutil.Error), process.oneshot():
                times = process.cpu_times()
                memory_mb += process.memory_info().rss / MB
                threads += process.num_threads()
                cpu_s[process.pid, process.create_time()] = times.user + times.system
        if not cpu_s:
            return None
        values = {'memory_mb': memory_mb, 'threads': threads}
        if self._last_cpu_s is not None and now_ns > self._last_ns:
            # Process by process: one that ended since takes nothing back, and one that is new has
            # done all of its work since.
            done_s = sum(seconds - self._last_cpu_s.get(key, 0.0) for key, seconds in cpu_s.items())
            values['cpu_cores'] = done_s / ((now_ns - self._last_ns) / 1e9)
        self._last_ns, self._last_cpu_s = now_ns, cpu_s
        return LoadSample(self._who, now_ns, values)


def _sample_of_gpu(closing: contextlib.ExitStack) -> Callable[[], LoadSample | None]:
    """Function that samples the first GPU; of none without nvidia-ml-py, a driver or a GPU."""
    try:
        nvml: Any = importlib.import_module('pynvml')
    except ImportError:
        return lambda: None
    closing.enter_context(contextlib.suppress(nvml.NVMLError))
    try:
        nvml.nvmlInit()
        closing.callback(nvml.nvmlShutdown)
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
    except nvml.NVMLError:
        return lambda: None
    heat = nvml.NVML_TEMPERATURE_GPU
    asked: dict[str, Callable[[], float]] = {
        'load_percent': lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        'memory_mb': lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / MB,
        'clock_mhz': lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        'temperature_c': lambda: nvml.nvmlDeviceGetTemperature(handle, heat),
        'power_w': lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
    }

    def sample() -> LoadSample | None:
        values = {}
        for name, ask in asked.items():
            with contextlib.suppress(nvml.NVMLError):  # not each of them tells everything
                values[name] = float(ask())
        return LoadSample('gpu', time.monotonic_ns(), values) if values else None

    return sample
