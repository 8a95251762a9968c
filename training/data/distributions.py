"""What a data set holds, as one picture: classes, box heights, boxes per picture, picture sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cone_perception.classes import CLASS_NAMES
from cone_perception.pictures.draw import CLASS_COLOURS, short_name
from training.data.report import DataReport, box_heights_px

MOST_HEIGHT_PX = 400


def write_distributions(report: DataReport, path: Path) -> None:
    """Draw the report's counts and sizes into a PNG file, one line per split."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    splits = [split for split, pictures in report.pictures.items() if pictures]
    figure = Figure(figsize=(15, 1 + 2.8 * max(1, len(splits))), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(report.path.parent.name)
    axes = figure.subplots(max(1, len(splits)), 4, squeeze=False)
    colours = [tuple(value / 255 for value in CLASS_COLOURS[name][::-1]) for name in CLASS_NAMES]
    edges_px = np.geomspace(2, MOST_HEIGHT_PX, 40)
    for line, split in zip(axes, splits, strict=False):
        pictures, counts = report.pictures[split], report.counts[split]
        names = [short_name(name) for name in CLASS_NAMES]
        bars = line[0].barh(names, [counts.boxes[name] for name in CLASS_NAMES], color=colours)
        line[0].bar_label(bars, padding=2, fontsize=8)
        line[0].margins(x=0.2)
        line[0].invert_yaxis()
        line[0].set(title=f'{split}: {counts.pictures} pictures', xlabel='boxes')
        heights_px = box_heights_px(pictures)
        line[1].hist(heights_px.clip(edges_px[0], edges_px[-1]), bins=edges_px, color='0.4')
        line[1].set(title='box heights', xlabel='pixels of the picture', xscale='log')
        boxes = [len(picture.labels.rows) for picture in pictures]
        line[2].hist(boxes, bins=np.arange(max(boxes) + 2) - 0.5, color='0.4')
        line[2].set(title='boxes per picture', xlabel='boxes')
        sizes = [picture.size_px for picture in pictures]
        found, number = np.unique(np.array(sizes), axis=0, return_counts=True)
        line[3].scatter(found[:, 0], found[:, 1], s=10 + 200 * number / number.sum(), alpha=0.5)
        line[3].set(title='picture sizes', xlabel='width, px', ylabel='height, px')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
