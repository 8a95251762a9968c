"""The command `cone-training data gap`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cone_perception.files import write_json
from cone_perception.model_card import shipped_bundle
from training.data.gap.measure import measure_gap
from training.data.gap.page import write_gap_page
from training.data.gap.report import GapReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('a', type=Path, help='data set to learn from first')
    parser.add_argument('b', type=Path, help='target data set')
    parser.add_argument('--out', type=Path, default=Path('gap'), help='folder (default: gap)')
    parser.add_argument(
        '--weights',
        type=Path,
        default=shipped_bundle(),
        help='.pt, .onnx or model bundle whose backbone compares (default: the shipped model)',
    )
    parser.add_argument('--no-embedding', action='store_true', help='leave the backbone out')
    parser.add_argument(
        '--pictures', type=int, default=300, help='per set, for the embedding (default: 300)'
    )
    parser.add_argument(
        '--cut-frames', action='store_true', help='embed without the frames around pictures'
    )
    parser.add_argument('--split', nargs='+', default=(), help='only these (default: all)')
    parser.add_argument('--workers', type=int, help='threads (default: one per processor)')


def run(args: argparse.Namespace) -> int:
    """Measure, write gap.json and gap.html below --out, print what differs."""
    report = measure_gap(
        args.a,
        args.b,
        weights=None if args.no_embedding else args.weights,
        pictures=args.pictures,
        cut_frames=args.cut_frames,
        splits=args.split,
        workers=args.workers,
    )
    write_json(args.out / 'gap.json', report.to_json())
    write_gap_page(args.out / 'gap.html', report)
    print_gap(report)
    print(f'\n{args.out / "gap.html"} shows it, with pictures of the sets: do not publish it.')
    return 0


def print_gap(report: GapReport) -> None:
    """A table of the distances, largest first, and what they say."""
    print(f'{report.a.name}: {len(report.a.paths)} pictures; {report.b.name}: ', end='')
    print(f'{len(report.b.paths)} pictures')
    print(f'\n  {"":26}{"A":>10}{"B":>10}{"A to B":>10}{"halves":>10}')
    for entry in report.differences:
        medians = ''.join(
            f'{"-" if np.isnan(value) else f"{value:.3g}":>10}'
            for value in (entry.median_a, entry.median_b)
        )
        mark = ' *' if entry.notable else ''
        print(f'  {entry.name:26}{medians}{entry.distance:10.3f}{entry.within:10.3f}{mark}')
    print('\n' + '\n'.join(report.sentences()))
