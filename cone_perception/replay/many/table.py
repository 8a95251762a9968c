"""Outcomes of many bags -> table.json, table.html and a text."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cone_perception.accuracy.intervals import Interval
from cone_perception.arguments import text_table
from cone_perception.errors import OutputError
from cone_perception.files import write_json
from cone_perception.pages.blocks import Cell, Page, Piece, Section, Table
from cone_perception.pages.page import write_page
from cone_perception.replay.many.jobs import BagOutcome
from cone_perception.replay.pages.figure_text import UNKNOWN, name_cell, value_text

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


def read_table(out: Path) -> list[BagOutcome]:
    """Read what an earlier run left in table.json; empty without one. Raises OutputError."""
    try:
        stored = json.loads((out / 'table.json').read_text(encoding='utf-8'))
        return [_outcome_from(row) for row in stored['bags']]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f'{out / "table.json"} is not what a replay wrote ({error}): remove it, or give '
            'another --out.'
        ) from error


def _outcome_from(row: dict[str, Any]) -> BagOutcome:
    seconds = math.nan if row['seconds'] is None else float(row['seconds'])
    figures = {name: Interval.from_json(figure) for name, figure in row['figures'].items()}
    return BagOutcome(**{**row, 'bag': Path(row['bag']), 'seconds': seconds, 'figures': figures})


def write_table(out: Path, outcomes: Sequence[BagOutcome]) -> None:
    """Write table.json, by which a killed run goes on, and table.html."""
    write_json(out / 'table.json', {'schema': 1, 'bags': list(outcomes)})
    columns = _columns(outcomes)
    head: list[Piece] = ['bag', 'state', *map(name_cell, columns)]
    rows = [[_link(out, each), each.state, *_cells(each, columns)] for each in outcomes]
    reasons = [[each.name, line] for each in outcomes for line in each.reason.splitlines()]
    write_page(
        out / 'table.html',
        Page(
            'Replays',
            _summary(outcomes),
            sections=[
                Section('', [Table(head, rows, words=[1])]),
                Section('Why some are not done', [Table([], reasons, [1])]),
            ],
            wide=True,
        ),
    )


def table_text(outcomes: Sequence[BagOutcome]) -> str:
    """The table for a terminal: a line for each bag, then why some are not done."""
    columns = _columns(outcomes)
    short = (name.removesuffix('_share').removesuffix('_sent') for name in columns)
    rows = [['bag', 'state', *short]] + [
        [each.name, each.state, *_cells(each, columns)] for each in outcomes
    ]
    reasons = [f'{each.name}: {line}' for each in outcomes for line in each.reason.splitlines()]
    return '\n'.join([*text_table(rows, words=(0, 1)), *reasons, _summary(outcomes)])


def _columns(outcomes: Sequence[BagOutcome]) -> list[str]:
    return [name for name in MAIN_FIGURES if any(name in each.figures for each in outcomes)]


def _cells(outcome: BagOutcome, columns: Sequence[str]) -> list[str]:
    return [value_text(name, outcome.figures.get(name, UNKNOWN).value) for name in columns]


def _link(out: Path, outcome: BagOutcome) -> Cell:
    there = (out / outcome.name / 'report.html').exists()
    return Cell(outcome.name, href=f'{quote(outcome.name)}/report.html' if there else '')


def _summary(outcomes: Sequence[BagOutcome]) -> str:
    states = Counter(each.state for each in outcomes)
    return f'{len(outcomes)} bags: ' + ', '.join(f'{n} {state}' for state, n in states.items())
