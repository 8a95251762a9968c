"""Bags -> a job for each -> outcomes, as they come -> one table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from cone_perception.errors import OutputError
from cone_perception.files import LockedError, locked
from cone_perception.replay.many.cluster import replay_on_ray
from cone_perception.replay.many.jobs import COMMAND, BagJob, BagOutcome, plan_jobs, replay_here
from cone_perception.replay.many.table import read_table, table_text, write_table
from cone_perception.replay.processes import signals_as_interrupt

FINISHED = ('done', 'over budget')


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

    options: for every bag; a Path counts with the files it holds.
    workers: bags at once; on Ray at most, 1 for as many as the cluster takes.
    """
    with signals_as_interrupt(), _locked(out):
        jobs = plan_jobs(bags, options, out, command)
        known = _finished_before(jobs, out)
        outcomes: dict[str, BagOutcome] = {job.name: job.outcome('not run') for job in jobs} | known
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
            waiting = [job for job in jobs if job.name not in known]
            if waiting and ray:
                replay_on_ray(waiting, workers, ray, cpus, keep)
            else:
                at_once = min(workers, len(waiting))
                replay_here([replace(job, jobs=at_once) for job in waiting], workers, keep)
        print(table_text(list(outcomes.values())))
        print(f'table: {out / "table.html"}', flush=True)
    states = {outcome.state for outcome in outcomes.values()}
    if states & {'interrupted', 'not run'}:
        return 130
    return 0 if states == {'done'} else 1


def _finished_before(jobs: Sequence[BagJob], out: Path) -> dict[str, BagOutcome]:
    """Find the bags that an earlier run finished with the same options, bag and program."""
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
