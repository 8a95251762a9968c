"""Bags -> jobs, one for each -> processes on this machine, some at a time -> outcomes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cone_perception
from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import ConePerceptionError, SettingsError
from cone_perception.process import start_apart, wait_or_kill
from cone_perception.replay.figures.result import read_result
from cone_perception.replay.output_folder import distinct_names

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

    name: of its folder. folder: for its results. log: what its process says. arguments: for Python.
    key: of everything that the result depends on. jobs: at once on its machine.
    """

    name: str
    bag: Path
    folder: Path
    log: Path
    arguments: tuple[str, ...]
    key: str
    jobs: int = 1

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
        folder, path = (out / name).absolute(), bag.absolute()
        parts = [cone_perception.__version__, program, tokens, inputs, str(path), _files_of(bag)]
        jobs.append(
            BagJob(
                name=name,
                bag=path,
                folder=folder,
                log=(out / 'log' / f'{name}.log').absolute(),
                arguments=(*command, str(path), '--out', str(folder), *tokens),
                key=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
            )
        )
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
    if figures and not status:
        return replace(job.outcome('done', seconds=seconds), figures=figures)
    over = [line for line in _log_lines(job) if line.startswith('over budget: ')]
    if over and figures:
        reason = '\n'.join(line.removeprefix('over budget: ') for line in over)
        return replace(job.outcome('over budget', reason, seconds), figures=figures)
    return replace(job.outcome('failed', _why_ended(job, status), seconds), figures=figures)


def _why_ended(job: BagJob, status: int) -> str:
    """The last thing that it said, or how it ended."""
    if status < 0:
        return f'ended by {signal.Signals(-status).name}: see {job.log}'
    said = next((line for line in reversed(_log_lines(job)) if line), '')
    said = said.removeprefix('cone-perception replay: ')
    return f'{said or "said nothing"} (status {status}; {job.log})'


def _log_lines(job: BagJob) -> list[str]:
    try:
        return job.log.read_text(encoding='utf-8', errors='replace').splitlines()
    except FileNotFoundError:
        return []


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
        self.started_ns = time.time_ns()
        self._began = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {JOBS_VARIABLE: str(job.jobs), 'PYTHONUNBUFFERED': '1'}
        self._process = start_apart([sys.executable, *job.arguments], environment, job.log)

    @property
    def seconds(self) -> float:
        """Time since its start."""
        return time.monotonic() - self._began

    def ended(self) -> int | None:
        """Give its status; None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Send it Ctrl-C: it may still write the report of what it saw."""
        self._process.send_signal(signal.SIGINT)

    def end(self, timeout_s: float) -> int:
        """Wait for its status; after the time-out, kill it with all that it started."""
        wait_or_kill(self._process, timeout_s)
        return self._process.wait()


def replay_here(jobs: Sequence[BagJob], workers: int, keep: Keep) -> None:
    """Replay bags, `workers` at a time, and tell `keep` each outcome as it comes.

    Ctrl-C ends those that run; they may still write what they saw.
    """
    waiting, running = deque(jobs), list[JobProcess]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(JobProcess(waiting.popleft()))
            for process in list(running):
                status = process.ended()
                if status is not None:
                    running.remove(process)
                    keep(outcome_of(process.job, status, process.seconds, process.started_ns))
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print('interrupted: ending the replays that run', file=sys.stderr, flush=True)
        for process in running:
            process.interrupt()
        for process in running:
            process.end(STOP_TIMEOUT_S)
            keep(process.job.outcome('interrupted', 'ended by Ctrl-C', process.seconds))
    finally:
        for process in running:
            process.end(0)
