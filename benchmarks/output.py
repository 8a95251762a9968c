"""The one way of the benchmarks to take arguments, to print tables and to write JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cone_perception.files import to_json, write_json


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser that shows the module's docstring and takes --json."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--json', type=Path, help='file for all figures')
    return parser


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
