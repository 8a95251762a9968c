"""Ultralytics' results.csv: a row for each epoch of a stage."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

MAP50 = 'metrics/mAP50(B)'
MAP50_95 = 'metrics/mAP50-95(B)'
"""Ultralytics' names."""

Columns = Mapping[str, Sequence[float]]


def read_results(path: Path) -> dict[str, list[float]]:
    """Ultralytics' results.csv by column; a line that is being written is left out."""
    if not path.is_file():
        return {}
    with path.open(encoding='utf-8', errors='replace', newline='') as file:
        rows = list(csv.reader(file))
    names = [name.strip() for name in rows[0]] if rows else []
    columns: dict[str, list[float]] = {name: [] for name in names}
    for row in rows[1:]:
        if len(row) == len(names):
            for name, text in zip(names, row, strict=True):
                columns[name].append(_number(text))
    return columns


def epoch_seconds(columns: Columns) -> list[float]:
    """Seconds that each epoch took. A resumed training counts its time from zero."""
    found, before = [], 0.0
    for at in columns.get('time', ()):
        found.append(at - before if at > before else at)
        before = at
    return found


def total(columns: Columns, prefix: str) -> list[float]:
    """Add the columns that begin so, in each epoch."""
    parts = [values for name, values in columns.items() if name.startswith(prefix)]
    return [sum(row) for row in zip(*parts, strict=True)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
