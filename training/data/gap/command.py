"""The command `cone-training data gap`: a table, and one HTML file that needs no network."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.arguments import text_table
from cone_perception.classes import CLASS_NAMES
from cone_perception.files import write_json
from cone_perception.model_card import shipped_bundle
from cone_perception.pages.blocks import (
    Bullets,
    Cell,
    Chart,
    Gallery,
    Page,
    Picture,
    Piece,
    Section,
    Table,
    Text,
)
from cone_perception.pages.charts import SERIES_COLOURS, chart, dots
from cone_perception.pages.page import embed_picture, write_page
from cone_perception.pictures.draw import short_name
from training.data.gap.measure import HALVINGS, GapReport, SetDifference, measure_gap
from training.data.report import share_chart
from training.ultralytics_cpu import Trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('a', type=Path, help='data set to learn from first')
    parser.add_argument('b', type=Path, help='target data set')
    parser.add_argument('--out', type=Path, default=Path('gap'), help='folder (default: gap)')
    weights = '.pt, .onnx or model bundle whose backbone compares (default: the shipped model)'
    parser.add_argument('--weights', type=Path, default=shipped_bundle(), help=weights)
    parser.add_argument('--trust', action=Trust)
    parser.add_argument('--no-embedding', action='store_true', help='leave the backbone out')
    pictures = 'per set, for the embedding (default: 300)'
    parser.add_argument('--pictures', type=int, default=300, help=pictures)
    cut = 'embed without the frames around pictures'
    parser.add_argument('--cut-frames', action='store_true', help=cut)
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
    a, b = report.a, report.b
    print(f'{a.name}: {len(a.paths)} pictures; {b.name}: {len(b.paths)} pictures\n')
    rows = [list(HEAD), *map(distance_row, report.differences)]
    print('\n'.join([*text_table(rows, words=[0]), '', *report.sentences()]))
    print(f'\n{args.out / "gap.html"} shows it, with pictures of the sets: do not publish it.')
    return 0


HEAD = 'figure', 'median A', 'median B', 'A to B', 'halves of one set', 'times'


def distance_row(entry: SetDifference) -> list[str]:
    medians = ('–' if np.isnan(v) else f'{v:.3g}' for v in (entry.median_a, entry.median_b))
    distances = f'{entry.distance:.3f}', f'{entry.within:.3f}', f'{entry.ratio:.1f}'
    return [entry.name, *medians, *distances]


def write_gap_page(path: Path, report: GapReport) -> None:
    """Write the page. It holds pictures of the data sets: for local viewing."""
    a, b = report.a.name, report.b.name
    rows: list[list[Piece]] = []
    for entry in report.differences:
        name, *figures = distance_row(entry)
        rows.append([Cell(name, tone='' if entry.notable else 'dim'), *figures])
    distances = Table(
        HEAD,
        rows,
        note='Numbers: Wasserstein distance in standard deviations of both sets together. Classes: '
        'Jensen-Shannon distance. Embedding: maximum mean discrepancy. Halves: the greatest '
        f'distance of {HALVINGS} random halves of a set, drawn by blocks of consecutive pictures.',
    )
    sections = [
        Section('In words', [Bullets([*report.sentences()])]),
        Section('Distances', [distances]),
        Section('Distributions', list(_distributions(report))),
        *_embedding(report),
    ]
    counts = f'{len(report.a.paths)} and {len(report.b.paths)} pictures.'
    write_page(path, Page(f'From {a} to {b}', counts, sections=sections))


def _distributions(report: GapReport) -> Iterator[Chart]:
    """Share of the values in each bin, of both sets."""
    for entry in report.differences:
        if entry.name not in report.a.figures:
            continue
        axis: dict[str, Any] = {}
        values = [each.figures[entry.name].values[:, 0] for each in (report.a, report.b)]
        if entry.name == 'classes':
            edges = np.arange(len(CLASS_NAMES) + 1) - 0.5
            names = [short_name(name) for name in CLASS_NAMES]
            axis = {'tickvals': list(range(len(names))), 'ticktext': names}
        else:
            low, high = np.quantile(np.concatenate(values), [0.005, 0.995])
            edges = np.linspace(low, max(high, low + 1e-6), 41)  # 40 bins
        counts = [np.histogram(found, edges)[0] for found in values]
        counted = [(report.a.name, counts[0]), (report.b.name, counts[1])]
        title = f'{entry.name} ({entry.unit})' if entry.unit else entry.name
        yield share_chart(entry.name, counted, (edges[1:] + edges[:-1]) / 2, title, **axis)


def _embedding(report: GapReport) -> Iterator[Section]:
    found = report.embedding
    if found is None:
        return
    rows = np.concatenate([found.a, found.b])
    _, _, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    traces = [
        dots(sample.name, part @ axes[0], part @ axes[1], SERIES_COLOURS[index], opacity=0.6)
        for index, (sample, part) in enumerate([(report.a, found.a), (report.b, found.b)])
    ]
    told = Text(
        'A dot per picture, on the two directions that vary most. Weights: '
        f'{found.weights}. Shuffled blocks of both sets are at most {found.if_same:.3f} apart.'
    )
    plane = chart('embedding', traces, height_px=400)
    yield Section('As the backbone sees them', [plane, told])
    for kind, paths in found.examples.items():
        pictures = [Picture(embed_picture(path, 320), path.name) for path in paths]
        yield Section(f'Pictures of {report.b.name} {kind} to {report.a.name}', [Gallery(pictures)])
