"""The one way of the benchmarks to take arguments, to print tables and to write JSON."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cone_perception.accuracy.intervals import Interval
from cone_perception.files import to_json, write_json
from cone_perception.pages.blocks import Block, Chart, Table
from cone_perception.pages.charts import chart, line, series_colour


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser that shows the module's docstring and takes --json."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--json', type=Path, help='file for all figures')
    return parser


ISA_LIMITS = {
    'avx2': {
        'ONEDNN_MAX_CPU_ISA': 'AVX2',  # of OpenVINO, and of torch
        'ATEN_CPU_CAPABILITY': 'avx2',
        'MKL_ENABLE_INSTRUCTIONS': 'AVX2',
    },
}
"""Environment of OpenVINO and torch that stands for a lesser processor."""


def add_isa(parser: argparse.ArgumentParser) -> None:
    """Take --isa, for `limit_instructions`."""
    told = 'stand for a processor that ends with these instructions, in every runtime and process'
    parser.add_argument('--isa', choices=[*ISA_LIMITS], help=told)


def limit_instructions(isa: str | None) -> dict[str, str]:
    """Limit what is loaded from now on, here and in processes that begin, and return by what."""
    limits = ISA_LIMITS[isa] if isa else {}
    os.environ.update(limits)
    return limits


def write_result(path: Path | None, result: dict[str, Any], *, show: bool = False) -> None:
    """Write the figures and the command that made them. show: print the JSON too."""
    result = {'command': ['python', *sys.argv], **result}
    if show:
        print(to_json(result, indent=2))
    if path:
        write_json(path, result)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str = '') -> None:
    """Print a Markdown table, below a title where one is given."""
    if title:
        print(f'\n{title}\n')
    for row in (head, ['---'] * len(head), *rows):
        print(f'| {" | ".join(row)} |')


class Figures:
    """What a benchmark found, for the terminal, JSON and a page.

    tables: title -> row -> column -> value. curves: title -> name -> x, y; y is a share.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Mapping[str, Any]]] = {}
        self.curves: dict[str, dict[str, tuple[Any, Any]]] = {}

    def add(self, table: str, row: str, values: Mapping[str, Any]) -> None:
        """Put a row into a table; all rows of a table have the same columns."""
        self.tables.setdefault(table, {})[row] = values

    def draw(self, title: str, name: str, x: Any, y: Any) -> None:
        """Put a curve into a chart."""
        self.curves.setdefault(title, {})[name] = (x, y)

    def blocks(self) -> list[Block]:
        """Tables and charts of a page."""
        return [*self._tables(), *self._charts()]

    def print(self) -> None:
        """Print the tables."""
        for table in self._tables():
            print('')
            print_table([*map(str, table.columns)], [[*map(str, row)] for row in table.rows])

    def to_json(self) -> dict[str, Any]:
        """Tables and curves."""
        return {'tables': self.tables, 'curves': self.curves}

    def _tables(self) -> Iterable[Table]:
        for title, rows in self.tables.items():
            texts = [[name, *map(shown, values.values())] for name, values in rows.items()]
            yield Table([title, *next(iter(rows.values()))], texts)

    def _charts(self) -> Iterable[Chart]:
        for title, curves in self.curves.items():
            traces = [line(n, *c, series_colour(i)) for i, (n, c) in enumerate(curves.items())]
            yield chart(title, traces, title=title, y_axis={'range': [0, 1.02]})


def shown(value: Any) -> str:
    """A count, a share, or a figure with its interval; a dash where it is not known."""
    if isinstance(value, Interval):
        return f'{value.value:.3f} ({value.low:.3f} to {value.high:.3f})'
    if isinstance(value, float):
        return '–' if math.isnan(value) else f'{value:.2f}'
    return str(value)
