"""Pictures of an evaluation: precision over recall, confusion, and the worst pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cone_perception.accuracy.average_precision import rank
from cone_perception.errors import OutputError, SourceError, told_as
from cone_perception.pictures.draw import class_colour, draw_caption, draw_cones, short_name, shrink
from cone_perception.types import Detections, UInt8
from training.judging.evaluation import Evaluation
from training.judging.metrics import Confidence, confident, confusion, errors_per_image

PR_FILE = 'pr_curves.png'
CONFUSION_FILE = 'confusion.png'
WORST_FILE = 'worst.jpg'

TILE_WIDTH_PX, TILE_HEIGHT_PX, CAPTION_PX = 960, 640, 40
ROWS, COLUMNS = 4, 2


def write_plots(
    evaluation: Evaluation,
    pictures: Mapping[str, Path],
    folder: Path,
    confidence: Confidence,
) -> None:
    """Write all plots into a folder. pictures: name in the evaluation -> file. OutputError."""
    with told_as(OutputError, f'{folder} cannot take the plots'):
        folder.mkdir(parents=True, exist_ok=True)
        pr_curves(evaluation).savefig(folder / PR_FILE, dpi=120)
        confusion_plot(evaluation, confidence).savefig(folder / CONFUSION_FILE, dpi=120)
        sheet = worst_sheet(evaluation, pictures, confidence)
        (folder / WORST_FILE).unlink(missing_ok=True)
        if sheet is not None:
            _, jpeg = cv2.imencode('.jpg', sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
            (folder / WORST_FILE).write_bytes(jpeg.tobytes())


def pr_curves(evaluation: Evaluation) -> Figure:
    """Best precision beyond each recall, at IoU 0.5, of each class that has a cone."""
    figure = Figure(figsize=(6.4, 4.8), layout='constrained')
    axes = figure.subplots()
    once = np.ones((1, len(evaluation.image_names)), np.int32)
    for name, ranked in zip(evaluation.class_names, rank(evaluation.matches), strict=True):
        truths = int(ranked.truths.sum())
        if not truths:
            continue
        hits = np.cumsum(ranked.correct[:, 0])
        precision = hits / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        ap50 = ranked.average_precisions(once, 1)[0, 0]
        blue, green, red = class_colour(name)
        axes.plot(
            np.concatenate([[0], hits / truths]),
            np.concatenate([envelope[:1] if len(envelope) else [0], envelope]),
            color=(red / 255, green / 255, blue / 255),
            label=f'{short_name(name)} {ap50:.3f}',
        )
    _frame(axes, 'recall', 'precision', f'IoU 0.5, {len(evaluation.image_names)} pictures')
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if axes.lines:
        axes.legend(title='AP50', loc='best')
    return figure


def confusion_plot(evaluation: Evaluation, confidence: Confidence) -> Figure:
    """Confusion of the classes: counts, and shares of each class as shade."""
    counts = confusion(evaluation, confidence)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    shares[-1, -1] = 0
    names = [short_name(name) for name in evaluation.class_names]
    size = 2.4 + 0.8 * len(counts)
    figure = Figure(figsize=(size, size - 0.8), layout='constrained')
    axes = figure.subplots()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            colour = 'white' if shares[row, column] > 0.5 else 'black'
            text = str(counts[row, column])
            axes.text(column, row, text, ha='center', va='center', color=colour)
    places = range(len(counts))
    axes.set_xticks(places, [*names, 'nothing'], rotation=30, ha='right')
    axes.set_yticks(places, [*names, 'missed'])
    at = (
        'thresholds of the card'
        if isinstance(confidence, Mapping)
        else f'confidence {confidence:g}'
    )
    _frame(axes, 'what is there', 'found as', f'{at}, IoU 0.5')
    axes.grid(False)
    return figure


def worst_sheet(
    evaluation: Evaluation, pictures: Mapping[str, Path], confidence: Confidence
) -> UInt8 | None:
    """(H, W, 3) uint8 BGR: pictures with the most missed and wrong; None if there is no error.

    Boxes are what was found, dashed ones what is there.
    """
    missed, wrong = errors_per_image(evaluation, confidence)
    errors = missed + wrong
    worst = np.argsort(-errors, kind='stable')[: min(ROWS * COLUMNS, np.count_nonzero(errors))]
    if not len(worst):
        return None
    rows = math.ceil(len(worst) / COLUMNS)
    tiles = np.zeros((rows * COLUMNS, TILE_HEIGHT_PX, TILE_WIDTH_PX, 3), np.uint8)
    for tile, index in zip(tiles, worst.tolist(), strict=False):
        name = evaluation.image_names[index]
        shown = _draw(evaluation, index, pictures[name], confidence)
        tile[CAPTION_PX:][: shown.shape[0], : shown.shape[1]] = shown
        draw_caption(tile, f'{name}: {missed[index]} missed, {wrong[index]} wrong')
    by_place = tiles.reshape(rows, COLUMNS, *tiles.shape[1:])
    sheet: UInt8 = by_place.swapaxes(1, 2).reshape(rows * TILE_HEIGHT_PX, -1, 3)
    return sheet


def _draw(evaluation: Evaluation, index: int, path: Path, confidence: Confidence) -> UInt8:
    """(H, W, 3) uint8: a picture that fits a tile, with what was found in it and what is there."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SourceError(f'{path} cannot be decoded as a picture: replace it.')
    kept = (evaluation.detection_image == index) & confident(evaluation, confidence)
    there = evaluation.truth_image == index
    found = Detections(
        evaluation.detection_box_px[kept],
        evaluation.detection_score[kept],
        evaluation.detection_class[kept],
    )
    truth = Detections(
        evaluation.truth_box_px[there],
        np.ones(int(there.sum()), np.float32),
        evaluation.truth_class[there],
    )
    height, width = bgr.shape[:2]
    width_px = min(TILE_WIDTH_PX, round(width * (TILE_HEIGHT_PX - CAPTION_PX) / height))
    shown, found, scaled = shrink(np.asarray(bgr, np.uint8), found, truth, width_px)
    return draw_cones(shown, found, evaluation.class_names, scaled)


def _frame(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize='medium')
    axes.grid(alpha=0.3)
