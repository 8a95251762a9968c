"""Jobs -> workers of a Ray cluster, whose files are brought back."""

from __future__ import annotations

import logging
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cone_perception.errors import InstallError, OutputError, SettingsError, SourceError, told_as
from cone_perception.files import write_whole
from cone_perception.replay.many.jobs import (
    POLL_S,
    STOP_TIMEOUT_S,
    BagJob,
    BagOutcome,
    JobProcess,
    Keep,
    outcome_of,
)
from cone_perception.replay.output_folder import REPLAY_FILES, REPLAY_MARK, claim_folder

BROUGHT_BACK = (REPLAY_MARK, 'report.html', 'annotated.mp4', 'log/**/*', 'result.json')
"""Files that return from another machine; the result last, as it says that the others are there."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The answer of a worker. status: of the process; negative: the signal that ended it."""

    status: int
    seconds: float
    log: bytes
    files: Mapping[str, bytes]


def replay_on_ray(
    jobs: Sequence[BagJob], workers: int, address: str, cpus: int, keep: Keep
) -> None:
    """Replay bags on a cluster, and tell `keep` each outcome as it comes.

    workers: bags at once at most, 1 for as many as the cluster takes. cpus: that a bag takes.
    Raises InstallError, SettingsError.
    """
    try:
        import ray
    except ImportError as error:
        raise InstallError('--ray needs Ray: install the extra `ray`.') from error
    _check_address(address)
    causes = (ConnectionError, ValueError, RuntimeError)
    with told_as(SettingsError, f'no Ray cluster at {address}', *causes):
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
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
    with told_as(SettingsError, f'no Ray cluster at {address}', OSError, OverflowError):
        socket.create_connection((host, int(port)), 10).close()


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
            keep(job.outcome('interrupted', 'ended by Ctrl-C'))


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
        process = JobProcess(replace(job, folder=folder, log=log, arguments=tuple(here)))
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
        return job.outcome('failed', str(error.cause))
    except ray.exceptions.RayError as error:
        first_line = str(error).splitlines()[0]
        reason = f'its worker died, twice: {type(error).__name__}: {first_line}'
        return job.outcome('failed', reason)
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_bytes(returned.log)
        claim_folder(job.folder, REPLAY_MARK, REPLAY_FILES, None)
        for name, content in returned.files.items():
            write_whole(job.folder / name, content)
    except (OSError, OutputError) as error:
        return job.outcome('failed', f'cannot be brought back: {error}')
    return outcome_of(job, returned.status, returned.seconds)
