"""Many bags: each replayed by a process of its own, here or on a Ray cluster, and one table.

bags -> jobs -> processes, some at a time -> outcomes -> table.json, table.html
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import html
import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

import cone_perception
from cone_perception.arguments import count
from cone_perception.errors import (
    ConePerceptionError,
    InstallError,
    OutputError,
    SettingsError,
    SourceError,
)
from cone_perception.files import LockedError, locked, without_nan, write_whole
from cone_perception.pages.old import plain, table, write_page
from cone_perception.process import end_with_parent
from cone_perception.replay.figures.names import kind_of
from cone_perception.replay.figures.result import Figure, read_result
from cone_perception.replay.output_folder import REPLAY_MARK
from cone_perception.replay.processes import signals_as_interrupt

State = Literal['done', 'over budget', 'failed', 'interrupted', 'not run']
FINISHED: tuple[State, ...] = ('done', 'over budget')

MAIN_FIGURES = (
    'frames_sent',
    'answered_share',
    'transport_share',
    'dropped_share',
    'failed_share',
    'latency_p50_ms',
    'latency_p99_ms',
    'precision_sent',
    'recall_sent',
    'map50_sent',
    'flicker_share',
    'node_memory_peak_mb',
    'node_memory_slope_mb_per_min',
)
"""The table's columns; one that no bag has is left out."""

ONCE = ('bags', 'out', 'domain', 'jobs', 'ray', 'ray_cpus')
"""Arguments that are not for each bag."""

PATHS = ('model',)
"""Settings that are text, and name files."""

COMMAND = ('-m', 'cone_perception.cli', 'replay')
"""Arguments for Python."""

JOBS_VARIABLE = 'CONE_PERCEPTION_REPLAY_JOBS'
BROUGHT_BACK = (REPLAY_MARK, 'report.html', 'annotated.mp4', 'log/**/*', 'result.json')
"""What returns from another machine; the result last, as it says that the others are there."""

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


@dataclass(frozen=True, slots=True)
class BagOutcome:
    """What came of one bag. reason: why it is not done. figures: of its result."""

    name: str
    bag: Path
    key: str
    state: State
    reason: str = ''
    seconds: float = math.nan
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Returned:
    """What a worker sends back. status: of the process; negative: the signal that ended it."""

    status: int
    seconds: float
    log: bytes
    files: Mapping[str, bytes]


Keep = Callable[[BagOutcome], None]


def add_many_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare what concerns several bags only."""
    parser.add_argument('--jobs', type=count, default=1, help='bags at once (1)')
    parser.add_argument(
        '--ray',
        metavar='ADDRESS',
        help='replay on a Ray cluster that can read the bags: auto, local, or host:port',
    )
    parser.add_argument(
        '--ray-cpus', type=count, default=2, help='that a bag takes of a Ray worker (2)'
    )


def options_for_each(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    without: Sequence[str] = ONCE,
) -> list[str | Path]:
    """The options that differ from their defaults, as a command line for one bag has them.

    add_arguments: declares what is in `args`. without: names of what is not for each bag.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    tokens: list[str | Path] = []
    for action in parser._actions:
        value = getattr(args, action.dest)
        if not action.option_strings or action.dest in without or value == action.default:
            continue
        option = max(action.option_strings, key=len)
        if action.nargs == 0:
            tokens.append(option)
        elif isinstance(action, argparse._AppendAction):
            tokens += [f'{option}={each}' for each in value]
        elif isinstance(value, (list, tuple)):
            tokens += [option, *map(str, value)]
        elif isinstance(value, Path) or action.dest in PATHS:
            tokens += [option, Path(value)]
        else:
            tokens.append(f'{option}={value}')
    return tokens


def jobs_at_once() -> int:
    """How many replays share this machine, as whoever started this one says."""
    return int(os.environ.get(JOBS_VARIABLE, '1'))


def run_many(
    bags: Sequence[Path],
    options: Sequence[str | Path],
    out: Path,
    workers: int,
    ray: str | None = None,
    cpus: int = 2,
    command: Sequence[str] = COMMAND,
) -> int:
    """Replay all bags and write the table: 0 when all are done, 130 after Ctrl-C, else 1.

    options: for every bag, as `options_for_each` has them; a Path counts with the files it holds.
    workers: bags at once; on Ray at most, 1 for as many as the cluster takes.
    """
    with signals_as_interrupt(), _locked(out):
        jobs = plan_jobs(bags, options, out, command)
        known = _finished_before(jobs, out)
        outcomes: dict[str, BagOutcome] = {job.name: _not_run(job) for job in jobs} | known
        if known:
            print(f'{len(known)} of {len(jobs)} bags are finished already.', flush=True)
        if workers > 1 and not ray:
            print(
                f'{workers} replays at once disturb each other: their latencies are those of a '
                'busy machine. --jobs 1 measures, --jobs N judges accuracy.',
                file=sys.stderr,
            )

        with tqdm(
            desc='replaying', total=len(jobs), initial=len(known), unit='bag', disable=None
        ) as progress:

            def keep(outcome: BagOutcome) -> None:
                outcomes[outcome.name] = outcome
                write_table(out, list(outcomes.values()))
                progress.update()
                tqdm.write(f'{outcome.name}: {outcome.state}')

            write_table(out, list(outcomes.values()))
            replay_many([job for job in jobs if job.name not in known], workers, ray, cpus, keep)
        print(table_text(list(outcomes.values())))
        print(f'table: {out / "table.html"}', flush=True)
    states = {outcome.state for outcome in outcomes.values()}
    if states & {'interrupted', 'not run'}:
        return 130
    return 0 if states == {'done'} else 1


def replay_many(
    jobs: Sequence[BagJob],
    workers: int,
    ray: str | None = None,
    cpus: int = 2,
    keep: Keep = lambda outcome: None,
) -> list[BagOutcome]:
    """Replay each bag, `workers` at a time. One that fails does not stop the others, Ctrl-C does.

    ray: address of a cluster; each bag takes `cpus` of its CPUs. keep: told of each outcome as it
    comes.
    """
    outcomes: dict[str, BagOutcome] = {}

    def told(outcome: BagOutcome) -> None:
        outcomes[outcome.name] = outcome
        keep(outcome)

    if not jobs:
        return []
    if ray:
        _run_on_ray(jobs, workers, ray, cpus, told)
    else:
        _run_here([replace(job, jobs=min(workers, len(jobs))) for job in jobs], workers, told)
    return [outcomes.get(job.name, _not_run(job)) for job in jobs]


def plan_jobs(
    bags: Sequence[Path], options: Sequence[str | Path], out: Path, command: Sequence[str]
) -> list[BagJob]:
    """A job for each bag, each with a folder of its own."""
    twice = [bag for bag, times in Counter(bag.resolve() for bag in bags).items() if times > 1]
    if twice:
        raise SettingsError(f'{twice[0]} is given twice.')
    tokens = tuple(str(each.absolute()) if isinstance(each, Path) else each for each in options)
    inputs = [_files_of(each) for each in options if isinstance(each, Path)]
    package = Path(cone_perception.__file__).parent
    program = _files_of(package if command[0] == '-m' else Path(command[0]))
    jobs = []
    for name, bag in zip(_folder_names(bags), bags, strict=True):
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


def read_table(out: Path) -> list[BagOutcome]:
    """What an earlier run left in table.json; empty without one."""
    try:
        stored = json.loads((out / 'table.json').read_text(encoding='utf-8'))
        return [
            BagOutcome(
                name=row['name'],
                bag=Path(row['bag']),
                key=row['key'],
                state=row['state'],
                reason=row['reason'],
                seconds=_or_nan(row['seconds']),
                figures={
                    name: Figure(*(_or_nan(figure[end]) for end in ('value', 'low', 'high')))
                    for name, figure in row['figures'].items()
                },
            )
            for row in stored['bags']
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f'{out / "table.json"} is not what a replay wrote ({error}): remove it, or give '
            'another --out.'
        ) from error


def write_table(out: Path, outcomes: Sequence[BagOutcome]) -> None:
    """Write table.json, by which a killed run goes on, and table.html."""
    rows = [
        {
            'name': each.name,
            'bag': str(each.bag),
            'state': each.state,
            'reason': each.reason,
            'seconds': each.seconds,
            'key': each.key,
            'figures': {name: asdict(figure) for name, figure in each.figures.items()},
        }
        for each in outcomes
    ]
    write_whole(
        out / 'table.json',
        (json.dumps(without_nan({'schema': 1, 'bags': rows}), indent=2) + '\n').encode(),
    )
    columns = _columns(outcomes)
    names = [f'<span title="{plain(kind_of(name).what)}">{plain(name)}</span>' for name in columns]
    write_page(
        out / 'table.html',
        'table.html',
        subtitle=plain(_summary(outcomes)),
        table=table(
            ['bag', 'state', *names],
            [[_link(out, each), plain(each.state), *_cells(each, columns)] for each in outcomes],
        ),
        reasons=table(
            [],
            [
                [plain(each.name), plain(line)]
                for each in outcomes
                for line in each.reason.splitlines()
            ],
        ),
    )


def table_text(outcomes: Sequence[BagOutcome]) -> str:
    """The table for a terminal: a line for each bag, then why some are not done."""
    columns = _columns(outcomes)
    head = [
        'bag',
        'state',
        *(name.removesuffix('_share').removesuffix('_sent') for name in columns),
    ]
    rows = [head] + [[each.name, each.state, *_cells(each, columns)] for each in outcomes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        '  '.join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for each in outcomes:
        lines += [f'{each.name}: {line}' for line in each.reason.splitlines()]
    return '\n'.join([*lines, _summary(outcomes)])


class _Process:
    """The process of a job, in a session of its own; it takes a ROS domain that is free."""

    def __init__(self, job: BagJob) -> None:
        self.job = job
        self.started_ns = time.time_ns()
        self._began = time.monotonic()
        self._status: int | None = None
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open('wb') as log:
            # Ctrl-C reaches only this process, which ends it in order; if this one is killed, Linux
            # ends it.
            self._process = subprocess.Popen(
                [sys.executable, *job.arguments],
                env=os.environ | {JOBS_VARIABLE: str(job.jobs), 'PYTHONUNBUFFERED': '1'},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def ended(self) -> int | None:
        """Its status once it has ended."""
        return self._process.poll()

    def interrupt(self) -> None:
        """It may still write the report of what it saw."""
        self._process.send_signal(signal.SIGINT)

    def end(self, timeout_s: float) -> int:
        """Wait; after that, end it with all that it started."""
        try:
            return self._process.wait(timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            status = self._process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return status
            raise


def _run_here(jobs: Sequence[BagJob], workers: int, keep: Keep) -> None:
    waiting, running = deque(jobs), list[_Process]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Process(waiting.popleft()))
            for process in list(running):
                status = process.ended()
                if status is not None:
                    running.remove(process)
                    keep(_outcome(process.job, status, process.seconds, process.started_ns))
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print('interrupted: ending the replays that run', file=sys.stderr, flush=True)
        for process in running:
            process.interrupt()
        for process in running:
            status = process.end(STOP_TIMEOUT_S)
            keep(_outcome(process.job, status, process.seconds, process.started_ns, True))
    finally:
        for process in running:
            process.end(0)


def _run_on_ray(jobs: Sequence[BagJob], workers: int, address: str, cpus: int, keep: Keep) -> None:
    try:
        import ray
    except ImportError as error:
        raise InstallError('--ray needs Ray: install the extra `ray`.') from error
    _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f'no Ray cluster at {address}: {error}') from error
    try:
        _replay_by(ray, jobs, workers, cpus, keep)
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself would try for minutes."""
    if address in ('auto', 'local'):
        return
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal() or '/' in host:
        raise SettingsError(f'--ray {address}: give auto, local, or host:port of the cluster.')
    try:
        socket.create_connection((host, int(port)), 10).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(f'no Ray cluster at {address}: {error}') from error


def _replay_by(ray: Any, jobs: Sequence[BagJob], workers: int, cpus: int, keep: Keep) -> None:
    """`ray`: the module; connected."""
    largest = max(node['Resources'].get('CPU', 0) for node in ray.nodes() if node['Alive'])
    if cpus > largest:
        raise SettingsError(
            f'--ray-cpus {cpus}: the largest worker has {largest:g} CPUs, so no bag would start.'
        )
    # Tried once more when the worker dies; not when the bag or the replay is at fault.
    task = ray.remote(num_cpus=cpus, max_retries=1)(replay_for_driver)
    waiting = deque(replace(job, jobs=int(largest // cpus)) for job in jobs)
    running: dict[Any, BagJob] = {}
    try:
        while waiting or running:
            while waiting and (workers < 2 or len(running) < workers):
                job = waiting.popleft()
                running[task.remote(job)] = job
            ready, _ = ray.wait(list(running), timeout=1.0)
            for reference in ready:
                job = running.pop(reference)
                keep(_collected(ray, reference, job))
    except KeyboardInterrupt:
        print('interrupted: ending the replays that run', file=sys.stderr, flush=True)
        for reference in running:
            ray.cancel(reference)
        ray.wait(list(running), num_returns=len(running), timeout=STOP_TIMEOUT_S)
        for job in running.values():
            keep(BagOutcome(job.name, job.bag, job.key, 'interrupted', 'ended by Ctrl-C'))


def replay_for_driver(job: BagJob) -> Returned:
    """Runs on a worker: replay a bag there, whatever disk it has, and return its files."""
    if not job.bag.exists():
        raise SourceError(
            f'{job.bag} is not there on the worker {socket.gethostname()}: bags must lie where '
            'every worker finds them under the same path.'
        )
    with tempfile.TemporaryDirectory(prefix='cone_perception_replay_') as temporary:
        folder, log = Path(temporary, job.name), Path(temporary, 'job.log')
        here = [str(folder) if part == str(job.folder) else part for part in job.arguments]
        process = _Process(replace(job, folder=folder, log=log, arguments=tuple(here)))
        try:
            while process.ended() is None:
                time.sleep(POLL_S)
        except BaseException:
            process.interrupt()
            process.end(STOP_TIMEOUT_S)
            raise
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for pattern in BROUGHT_BACK
            for path in sorted(folder.glob(pattern))
            if path.is_file()
        }
        return Returned(process.end(0), process.seconds, log.read_bytes(), files)


def _collected(ray: Any, reference: Any, job: BagJob) -> BagOutcome:
    """Get what a worker returned, and lay it where a replay here would have."""
    try:
        returned: Returned = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        reason = str(error.cause)
        return BagOutcome(job.name, job.bag, job.key, 'failed', reason)
    except ray.exceptions.RayError as error:
        reason = f'its worker died, twice: {type(error).__name__}: {str(error).splitlines()[0]}'
        return BagOutcome(job.name, job.bag, job.key, 'failed', reason)
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_bytes(returned.log)
        if job.folder.exists():
            if not (job.folder / REPLAY_MARK).exists() and any(job.folder.iterdir()):
                raise OutputError(f'{job.folder} holds other files: give another --out.')
            shutil.rmtree(job.folder)
        for name, content in returned.files.items():
            path = job.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
    except (OSError, OutputError) as error:
        return BagOutcome(job.name, job.bag, job.key, 'failed', f'cannot be brought back: {error}')
    return _outcome(job, returned.status, returned.seconds)


def _outcome(
    job: BagJob, status: int, seconds: float, since_ns: int = 0, stopped: bool = False
) -> BagOutcome:
    """What a job's files and status say. since_ns: an older result is not this process's."""
    outcome = BagOutcome(job.name, job.bag, job.key, 'failed', seconds=seconds)
    if stopped:
        return replace(outcome, state='interrupted', reason='ended by Ctrl-C')
    path = job.folder / 'result.json'
    # File systems' clocks tick coarser than the processor's.
    if path.exists() and path.stat().st_mtime_ns >= since_ns - 10**9:
        try:
            result = read_result(path)
        except ConePerceptionError as error:
            return replace(outcome, reason=str(error))
        if not result.interrupted:
            outcome = replace(outcome, figures=dict(result.figures))
            if not status:
                return replace(outcome, state='done')
    over = [line for line in _log_lines(job) if line.startswith('over budget: ')]
    if over and outcome.figures:
        reason = '\n'.join(line.removeprefix('over budget: ') for line in over)
        return replace(outcome, state='over budget', reason=reason)
    return replace(outcome, reason=_why_ended(job, status))


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


def _finished_before(jobs: Sequence[BagJob], out: Path) -> dict[str, BagOutcome]:
    """Those that an earlier run finished with the same options, bag and program."""
    before = {(each.name, each.key): each for each in read_table(out)}
    found = {}
    for job in jobs:
        outcome = before.get((job.name, job.key))
        if outcome and outcome.state in FINISHED and (job.folder / 'result.json').exists():
            found[job.name] = outcome
    return found


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """No second run writes into the same folder. Raises OutputError."""
    try:
        with locked(out / '.lock'):
            yield
    except LockedError as error:
        raise OutputError(
            f'another replay of several bags writes into {out}: wait for it, or give another --out.'
        ) from error
    except PermissionError as error:
        raise OutputError(f'{out} cannot be written: {error}. Give another --out.') from error


def _folder_names(bags: Sequence[Path]) -> list[str]:
    """Each bag's name, with its parents' where two are equal. `bags` are distinct."""
    parts = [bag.resolve().parts[1:] for bag in bags]
    depth = [1] * len(bags)
    while True:
        names = ['_'.join(each[-n:]) for each, n in zip(parts, depth, strict=True)]
        times = Counter(names)
        if max(times.values(), default=1) == 1:
            return names
        depth = [n + (times[name] > 1) for name, n in zip(names, depth, strict=True)]


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


def _not_run(job: BagJob) -> BagOutcome:
    return BagOutcome(job.name, job.bag, job.key, 'not run')


def _columns(outcomes: Sequence[BagOutcome]) -> list[str]:
    return [name for name in MAIN_FIGURES if any(name in each.figures for each in outcomes)]


def _cells(outcome: BagOutcome, columns: Sequence[str]) -> list[str]:
    return [_cell(name, outcome.figures.get(name, Figure(math.nan)).value) for name in columns]


def _cell(name: str, value: float) -> str:
    if not math.isfinite(value):
        return '–'
    if kind_of(name).unit == 'share':
        return f'{100 * value:.1f} %'
    return f'{value:.0f}' if name.startswith('frames') else f'{value:.1f}'


def _link(out: Path, outcome: BagOutcome) -> str:
    name = plain(outcome.name)
    report = out / outcome.name / 'report.html'
    if not report.exists():
        return name
    return f'<a href="{html.escape(outcome.name)}/report.html">{name}</a>'


def _summary(outcomes: Sequence[BagOutcome]) -> str:
    states = Counter(each.state for each in outcomes)
    return f'{len(outcomes)} bags: ' + ', '.join(f'{n} {state}' for state, n in states.items())


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
