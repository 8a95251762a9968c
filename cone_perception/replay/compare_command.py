"""`cone-perception replay compare`: results side by side -> a table, JSON and a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from cone_perception.errors import OutputError, told_as
from cone_perception.replay.figures.compare import compare_results
from cone_perception.replay.pages.comparison import comparison_text, write_comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        'results',
        type=Path,
        nargs='+',
        metavar='RESULT',
        help='result.json of a replay, or its folder; the first is the baseline',
    )
    parser.add_argument(
        '--out', type=Path, help='folder for comparison.json and comparison.html (none)'
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and write it where --out says."""
    compared = compare_results(args.results)
    print(comparison_text(compared))
    if args.out:
        with told_as(OutputError, f'{args.out} cannot be written'):
            args.out.mkdir(parents=True, exist_ok=True)
            write_comparison(args.out, compared)
        print(f'page: {args.out / "comparison.html"}')
    return 0
