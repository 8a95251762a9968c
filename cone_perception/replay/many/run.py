"""Bags -> a job for each -> outcomes, as they come -> table.json, table.html and a text."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from cone_perception.accuracy.intervals import Interval
from cone_perception.arguments import text_table
from cone_perception.errors import OutputError, told_as
from cone_perception.files import LockedError, locked, write_json
from cone_perception.pages.blocks import Cell, Page, Piece, Section, Table
from cone_perception.pages.page import write_page
from cone_perception.process import on_sigterm
from cone_perception.replay.figures.names import name_cell, value_text
from cone_perception.replay.figures.result import UNKNOWN
from cone_perception.replay.many.jobs import (
    COMMAND,
    BagOutcome,
    plan_jobs,
    replay_each,
    replay_on_ray,
)

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
    'depth_p90_m 10 m',
    'node_memory_peak_mb',
    'node_memory_slope_mb_per_min',
)
"""The table's columns; one that no bag has is left out."""


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
    elsewhere = told_as(
        *(OutputError, f'another replay of several bags writes into {out}', LockedError),
        advice='Wait for it, or give another --out.',
    )
    refused = told_as(
        *(OutputError, f'{out} cannot be written'),
        *(PermissionError, FileExistsError, NotADirectoryError),
        advice='Give another --out.',
    )
    with on_sigterm(), elsewhere, refused, locked(out / '.lock'):
        jobs = plan_jobs(bags, options, out, command)
        before = {(each.name, each.key): each for each in read_table(out)}
        known = {
            job.name: outcome
            for job in jobs  # of which name, options, bag and program are the same
            if (outcome := before.get((job.name, job.key)))
            and outcome.state in ('done', 'over budget')
            and (job.folder / 'result.json').exists()
        }
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
                replay_each([replace(job, jobs=at_once) for job in waiting], workers, keep)
        columns, rows, reasons, summary = _tell(list(outcomes.values()))
        short = (name.removesuffix('_share').removesuffix('_sent') for name in columns)
        table = text_table([['bag', 'state', *short], *rows], words=(0, 1))
        print(*table, *(': '.join(reason) for reason in reasons), summary, sep='\n')
        print(f'table: {out / "table.html"}', flush=True)
    states = {outcome.state for outcome in outcomes.values()}
    if states & {'interrupted', 'not run'}:
        return 130
    return 0 if states == {'done'} else 1


def read_table(out: Path) -> list[BagOutcome]:
    """Read what an earlier run left in table.json; empty without one. Raises OutputError."""
    path = out / 'table.json'
    if not path.exists():
        return []
    causes = (OSError, ValueError, KeyError, TypeError)
    advice = 'Remove it, or give another --out.'
    with told_as(OutputError, f'{path} is not what a replay wrote', *causes, advice=advice):
        outcomes = []
        for row in json.loads(path.read_text(encoding='utf-8'))['bags']:
            row['bag'] = Path(row['bag'])
            row['seconds'] = math.nan if row['seconds'] is None else float(row['seconds'])
            row['figures'] = {n: Interval.from_json(stored) for n, stored in row['figures'].items()}
            outcomes.append(BagOutcome(**row))
        return outcomes


def write_table(out: Path, outcomes: Sequence[BagOutcome]) -> None:
    """Write table.json, by which a killed run goes on, and table.html."""
    write_json(out / 'table.json', {'schema': 1, 'bags': list(outcomes)})
    columns, rows, reasons, summary = _tell(outcomes)
    head: list[Piece] = ['bag', 'state', *map(name_cell, columns)]
    linked: list[list[Piece]] = [
        [Cell(name, href=f'{quote(name)}/report.html'), *cells]
        if (out / name / 'report.html').exists()
        else [name, *cells]
        for name, *cells in rows
    ]
    table = Section('', [Table(head, linked, words=[1])])
    why = Section('Why some are not done', [Table([], reasons, [1])])
    page = Page('Replays', summary, sections=[table, why], wide=True)
    write_page(out / 'table.html', page)


def _tell(
    outcomes: Sequence[BagOutcome],
) -> tuple[list[str], list[list[str]], list[list[str]], str]:
    """Names of the figures; a row for each bag; why some are not done; how many are what."""
    columns = [name for name in MAIN_FIGURES if any(name in each.figures for each in outcomes)]
    rows = []
    for each in outcomes:
        values = (value_text(name, each.figures.get(name, UNKNOWN).value) for name in columns)
        rows.append([each.name, each.state, *values])
    reasons = [[each.name, line] for each in outcomes for line in each.reason.splitlines()]
    states = Counter(each.state for each in outcomes)
    summary = ', '.join(f'{n} {state}' for state, n in states.items())
    boxes = '; precision, recall, mAP50: all boxes' if 'recall_sent' in columns else ''
    return columns, rows, reasons, f'{len(outcomes)} bags: {summary}{boxes}'
