"""The page of `cone-training data gap`: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.classes import CLASS_NAMES
from cone_perception.pages.blocks import (
    Block,
    Bullets,
    Cell,
    Chart,
    Gallery,
    Page,
    Picture,
    Section,
    Table,
    Text,
)
from cone_perception.pages.charts import chart, dots, line
from cone_perception.pages.embed_picture import embed_picture
from cone_perception.pages.page import write_page
from cone_perception.pictures.draw import short_name
from training.data.gap.report import HALVINGS, GapReport

BINS = 40
THUMBNAIL_PX = 320
COLOURS = ('--blue', '--orange')
"""Of the first set and of the second."""


def write_gap_page(path: Path, report: GapReport) -> None:
    """Write the page. It holds pictures of the data sets: for local viewing."""
    a, b = report.a.name, report.b.name
    distances = Table(
        ['figure', 'median A', 'median B', 'A to B', 'halves of one set', 'times'],
        [
            [
                Cell(entry.name, tone='' if entry.notable else 'dim'),
                *('–' if np.isnan(v) else f'{v:.3g}' for v in (entry.median_a, entry.median_b)),
                f'{entry.distance:.3f}',
                f'{entry.within:.3f}',
                f'{entry.ratio:.1f}',
            ]
            for entry in report.differences
        ],
        note='Numbers: Wasserstein distance in standard deviations of both sets together. Classes: '
        'Jensen-Shannon distance. Embedding: maximum mean discrepancy. Halves: the greatest '
        f'distance of {HALVINGS} random halves of a set, drawn by blocks of consecutive pictures.',
    )
    sections = [
        Section('In words', [Bullets(report.sentences())]),
        Section('Distances', [distances]),
        Section('Distributions', list(_distributions(report))),
        *_embedding(report),
    ]
    counts = f'{len(report.a.paths)} and {len(report.b.paths)} pictures.'
    write_page(path, Page(f'From {a} to {b}', counts, sections=sections))


def _distributions(report: GapReport) -> Iterator[Chart]:
    """Share of the values in each bin, of both sets."""
    samples = (report.a, report.b)
    for entry in report.differences:
        if entry.name not in report.a.figures:
            continue
        axis: dict[str, Any] = {}
        values = [sample.figures[entry.name].values[:, 0] for sample in samples]
        if report.a.figures[entry.name].kind == 'class':
            edges = np.arange(len(CLASS_NAMES) + 1) - 0.5
            names = [short_name(name) for name in CLASS_NAMES]
            axis = {'tickvals': list(range(len(names))), 'ticktext': names}
        else:
            low, high = np.quantile(np.concatenate(values), [0.005, 0.995])
            edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
        middle = (edges[1:] + edges[:-1]) / 2
        yield chart(
            entry.name,
            [
                line(
                    sample.name,
                    middle,
                    np.histogram(found, edges)[0] / max(len(found), 1),
                    colour,
                    shape='hvh',
                )
                for sample, found, colour in zip(samples, values, COLOURS, strict=True)
            ],
            x=f'{entry.name} ({entry.unit})' if entry.unit else entry.name,
            y='share',
            height_px=220,
            half=True,
            x_axis=axis,
        )


def _embedding(report: GapReport) -> Iterator[Section]:
    found = report.embedding
    if found is None:
        return
    rows = np.concatenate([found.a, found.b])
    _, _, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    blocks: list[Block] = [
        chart(
            'embedding',
            [
                dots(sample.name, part @ axes[0], part @ axes[1], colour, opacity=0.6)
                for sample, part, colour in zip(
                    (report.a, report.b), (found.a, found.b), COLOURS, strict=True
                )
            ],
            height_px=400,
        ),
        Text(
            'A dot per picture, on the two directions that vary most. Weights: '
            f'{report.weights}. Shuffled blocks of both sets are at most {found.if_same:.3f} apart.'
        ),
    ]
    yield Section('As the backbone sees them', blocks)
    for kind, paths in report.examples.items():
        pictures = [Picture(embed_picture(path, THUMBNAIL_PX), path.name) for path in paths]
        yield Section(f'Pictures of {report.b.name} {kind} to {report.a.name}', [Gallery(pictures)])
