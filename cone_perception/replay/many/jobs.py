"""Bags -> jobs, one for each -> processes, here or on a Ray cluster -> outcomes."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cone_perception
from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import (
    ConePerceptionError,
    InstallError,
    OutputError,
    SettingsError,
    SourceError,
    told_as,
)
from cone_perception.files import claim_folder, write_whole
from cone_perception.process import start_apart, wait_or_kill
from cone_perception.replay.figures.result import read_result
from cone_perception.replay.output_folder import (
    REPLAY_FILES,
    REPLAY_MARK,
    distinct_names,
)

State = Literal['done', 'over budget', 'failed', 'interrupted', 'not run']
COMMAND = ('-m', 'cone_perception.cli', 'replay')
"""Arguments for Python."""

JOBS_VARIABLE = 'CONE_PERCEPTION_REPLAY_JOBS'
STOP_TIMEOUT_S = 30.0
"""After Ctrl-C: for the report of what was seen."""

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class BagJob:
    """One bag to be replayed.

    name: of its folder in `out`. words: for Python, around the bag's path. key: of everything that
    the result depends on. jobs: at once on its machine.
    """

    name: str
    bag: Path
    out: Path
    words: tuple[tuple[str, ...], tuple[str, ...]]
    key: str
    jobs: int = 1

    @property
    def folder(self) -> Path:
        """Folder for its results."""
        return self.out / self.name

    @property
    def log(self) -> Path:
        """File of what its process says."""
        return self.out / 'log' / f'{self.name}.log'

    def outcome(self, state: State, reason: str = '', seconds: float = math.nan) -> BagOutcome:
        """Make the job's outcome, without figures."""
        return BagOutcome(self.name, self.bag, self.key, state, reason, seconds)


@dataclass(frozen=True, slots=True)
class BagOutcome:
    """The outcome of one bag. reason: why it is not done. figures: of its result."""

    name: str
    bag: Path
    key: str
    state: State
    reason: str = ''
    seconds: float = math.nan
    figures: Mapping[str, Interval] = field(default_factory=dict)


Keep = Callable[[BagOutcome], None]


def jobs_at_once() -> int:
    """Tell how many replays share this machine, as whoever started this one says."""
    return int(os.environ.get(JOBS_VARIABLE, '1'))


def plan_jobs(
    bags: Sequence[Path], options: Sequence[str | Path], out: Path, command: Sequence[str]
) -> list[BagJob]:
    """Make a job for each bag, each with a folder of its own.

    options: a command line for every bag; a Path counts with the files it holds. command: for
    Python. Raises SettingsError: for a bag that is given twice.
    """
    twice = [bag for bag, times in Counter(bag.resolve() for bag in bags).items() if times > 1]
    if twice:
        raise SettingsError(f'{twice[0]} is given twice.')
    tokens = tuple(str(each.absolute()) if isinstance(each, Path) else each for each in options)
    inputs = [_files_of(each) for each in options if isinstance(each, Path)]
    package = Path(cone_perception.__file__).parent
    program = _files_of(package if command[0] == '-m' else Path(command[0]))
    jobs = []
    for name, bag in zip(distinct_names(bags, '_'), bags, strict=True):
        path, version = bag.absolute(), cone_perception.__version__
        parts = [version, program, tokens, inputs, str(path), _files_of(bag)]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        jobs.append(BagJob(name, path, out.absolute(), (tuple(command), tokens), key))
    return jobs


def outcome_of(job: BagJob, status: int, seconds: float, since_ns: int = 0) -> BagOutcome:
    """Read a job's files. status: of its process. since_ns: an older result is not this one's."""
    path, figures = job.folder / 'result.json', dict[str, Interval]()
    # File systems' clocks tick coarser than the processor's.
    if path.exists() and path.stat().st_mtime_ns >= since_ns - 10**9:
        try:
            result = read_result(path)
        except ConePerceptionError as error:
            return job.outcome('failed', str(error), seconds)
        if not result.interrupted:
            figures = dict(result.figures)
    try:
        said = job.log.read_text(encoding='utf-8', errors='replace').splitlines()
    except FileNotFoundError:
        said = []
    mark = 'over budget: '
    over = [line.removeprefix(mark) for line in said if line.startswith(mark)]
    state: State = 'failed'
    if figures and not status:
        state, reason = 'done', ''
    elif over and figures:
        state, reason = 'over budget', '\n'.join(over)
    elif status < 0:
        reason = f'ended by {signal.Signals(-status).name}: see {job.log}'
    else:
        last = next((line for line in reversed(said) if line), 'said nothing')
        reason = f'{last.removeprefix("cone-perception replay: ")} (status {status}; {job.log})'
    return replace(job.outcome(state, reason, seconds), figures=figures)


def _files_of(path: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of a file, or of all files of a folder."""
    if not path.exists():
        return []
    files = [path] if path.is_file() else sorted(path.rglob('*'))
    return [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.is_file() and '__pycache__' not in file.parts
    ]


class JobProcess:
    """The process of a job, in a session of its own; it takes a ROS domain that is free."""

    def __init__(self, job: BagJob) -> None:
        self.job = job
        self._started_ns = time.time_ns()
        self._began_s = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {JOBS_VARIABLE: str(job.jobs), 'PYTHONUNBUFFERED': '1'}
        command, options = job.words
        words = [*command, str(job.bag), '--out', str(job.folder), *options]
        self.process = start_apart([sys.executable, *words], environment, job.log)

    @property
    def seconds(self) -> float:
        """Time since its start."""
        return time.monotonic() - self._began_s

    def outcome(self) -> BagOutcome | None:
        """Tell what came of it; None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        return outcome_of(self.job, status, self.seconds, self._started_ns)

    def interrupt(self) -> None:
        """Send it Ctrl-C: it may still write the report of what it saw."""
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout_s: float) -> None:
        """Wait for its end; after the time-out, kill it with all that it started."""
        wait_or_kill(self.process, timeout_s)


def replay_each(
    jobs: Sequence[BagJob], most: float, keep: Keep, start: Callable[[BagJob], Any] = JobProcess
) -> None:
    """Replay bags, `most` at a time, and tell `keep` each outcome as it comes.

    start: begins a job, here or elsewhere, as JobProcess does.
    Ctrl-C ends those that run; they may still write what they saw.
    """
    waiting, running = deque(jobs), list[Any]()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                running.append(start(waiting.popleft()))
            for each in list(running):
                if outcome := each.outcome():
                    running.remove(each)
                    keep(outcome)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print('interrupted: ending the replays that run', file=sys.stderr, flush=True)
        for each in running:
            each.interrupt()
        for each in running:
            each.end(STOP_TIMEOUT_S)
            keep(each.job.outcome('interrupted', 'ended by Ctrl-C', each.seconds))
    finally:
        for each in running:
            each.end(0)


def replay_on_ray(
    jobs: Sequence[BagJob], workers: int, address: str, cpus: int, keep: Keep
) -> None:
    """Replay bags on a cluster, and tell `keep` each outcome as it comes.

    workers: bags at once at most, 1 for as many as the cluster takes. cpus: that a bag takes.
    Raises InstallError, SettingsError.
    """
    try:
        ray: Any = importlib.import_module('ray')
    except ImportError as error:
        raise InstallError('--ray needs Ray: install the extra `ray`.') from error
    if address not in ('auto', 'local'):  # Ray itself would try for minutes
        host, _, port = address.rpartition(':')
        if not host or not port.isdecimal() or '/' in host:
            raise SettingsError(f'--ray {address}: give auto, local, or host:port of the cluster.')
        with told_as(SettingsError, f'no Ray cluster at {address}', OSError, OverflowError):
            socket.create_connection((host, int(port)), 10).close()
    causes = (ConnectionError, ValueError, RuntimeError)
    with told_as(SettingsError, f'no Ray cluster at {address}', *causes):
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        largest = max(node['Resources'].get('CPU', 0) for node in ray.nodes() if node['Alive'])
        if cpus > largest:
            raise SettingsError(
                f'--ray-cpus {cpus}: the largest worker has {largest:g} CPUs, so no bag would '
                'start.'
            )
        # Tried once more when the worker dies; not when the bag or the replay is at fault.
        task = ray.remote(num_cpus=cpus, max_retries=1)(replay_for_driver)
        shared = [replace(job, jobs=int(largest // cpus)) for job in jobs]
        most = workers if workers > 1 else math.inf
        replay_each(shared, most, keep, lambda job: RayJob(ray, task, job))
    finally:
        ray.shutdown()


def replay_for_driver(job: BagJob) -> tuple[int, float, bytes, dict[str, bytes]]:
    """Runs on a worker: replay a bag there, whatever disk it has.

    Returns the process's status (negative: the signal that ended it), seconds, log, and files.
    """
    if not job.bag.exists():
        raise SourceError(
            f'{job.bag} is not there on the worker {socket.gethostname()}: bags must lie where '
            'every worker finds them under the same path.'
        )
    with tempfile.TemporaryDirectory(prefix='cone_perception_replay_') as temporary:
        here = replace(job, out=Path(temporary))
        running = JobProcess(here)
        try:
            while (status := running.process.poll()) is None:
                time.sleep(POLL_S)
        except BaseException:
            running.interrupt()
            running.end(STOP_TIMEOUT_S)
            raise
        # The result last, as it says that the others are there.
        returning = (REPLAY_MARK, 'report.html', 'annotated.mp4', 'log/**/*', 'result.json')
        files = {
            str(path.relative_to(here.folder)): path.read_bytes()
            for pattern in returning
            for path in sorted(here.folder.glob(pattern))
            if path.is_file()
        }
        return status, running.seconds, here.log.read_bytes(), files


class RayJob:
    """A job on a worker of the cluster. seconds: not known here. ray: the module; connected."""

    seconds = math.nan

    def __init__(self, ray: Any, task: Any, job: BagJob) -> None:
        self.job = job
        self._ray = ray
        self._reference = task.remote(job)

    def outcome(self) -> BagOutcome | None:
        """Lay what a worker returned where a replay here would have; None while it runs."""
        job, ray = self.job, self._ray
        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        try:
            status, seconds, log, files = ray.get(self._reference)
        except ray.exceptions.RayTaskError as error:
            return job.outcome('failed', str(error.cause))
        except ray.exceptions.RayError as error:
            first_line = str(error).splitlines()[0]
            reason = f'its worker died, twice: {type(error).__name__}: {first_line}'
            return job.outcome('failed', reason)
        try:
            write_whole(job.log, log)
            claim_folder(job.folder, REPLAY_MARK, REPLAY_FILES, None)
            for name, content in files.items():
                write_whole(job.folder / name, content)
        except (OSError, OutputError) as error:
            return job.outcome('failed', f'cannot be brought back: {error}')
        return outcome_of(job, status, seconds)

    def interrupt(self) -> None:
        """Interrupt the worker, which interrupts the replay."""
        self._ray.cancel(self._reference)

    def end(self, timeout_s: float) -> None:
        """Wait for its end."""
        self._ray.wait([self._reference], timeout=timeout_s)
