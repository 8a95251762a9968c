"""An evaluation as tables, charts and pictures: for its page, the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from cone_perception.accuracy.average_precision import band_name, rank
from cone_perception.accuracy.intervals import Interval
from cone_perception.arguments import text_table
from cone_perception.dataset.layout import read_layout
from cone_perception.dataset.split import named_pictures
from cone_perception.pages.blocks import (
    Block,
    Box,
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
from cone_perception.pages.charts import chart, line
from cone_perception.pages.page import embed_picture, write_page
from cone_perception.pictures.draw import class_colour, short_name
from training.judging.evaluation import REFERENCE_WIDTH_PX, Evaluation, Origin, save_evaluation
from training.judging.metrics import Confidence, Metrics, confusion, find_mistakes

RECALLS = np.linspace(0, 1, 201)


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    figures: Metrics,
    confidence: Confidence,
    driven: Evaluation | None = None,
) -> None:
    """Write the arrays, their figures, and a page at that confidence. Raises OutputError.

    driven: what counts at the card's thresholds, where that is what the page shows.
    """
    save_evaluation(evaluation, folder, figures)
    origin = evaluation.origin
    shown_boxes = driven or evaluation
    curves = precision_chart(evaluation), confusion_table(shown_boxes, confidence)
    sections = [
        Section('Figures', list(figure_blocks(origin, figures))),
        Section('Precision, recall, confusion', curves),
        Section('Pictures with most errors', [worst_pictures(shown_boxes, confidence)]),
    ]
    title = f'{Path(origin.weights).name} on {origin.split} of {Path(origin.data).name}'
    write_page(folder / 'evaluation.html', Page(title, wide=True, sections=sections))


def print_blocks(blocks: Iterable[Block]) -> None:
    """Print paragraphs and tables."""
    for block in blocks:
        if isinstance(block, Table):
            rows = [[str(cell) for cell in row] for row in (block.columns, *block.rows)]
            print('', *text_table(rows, (0, *block.words)), block.note, sep='\n')
        if isinstance(block, Text):
            print(block.text)


def figure_blocks(
    origin: Origin, figures: Metrics, colour_map50: Interval | None = None
) -> Iterator[Block]:
    """All boxes, each class and height band; colour_map50: of classes with a colour and a cone."""
    yield Text(
        f'{origin.weights} on {origin.data}, split {origin.split}: {figures.images:g} pictures, '
        f'{figures.truths:g} cones'
    )
    yield Text(
        f'{origin.runtime}, {origin.precision}, {origin.layout} output, '
        f'input {origin.imgsz[0]}x{origin.imgsz[1]}, views {origin.views}'
    )
    for own, name in origin.class_mapping.items():
        yield Text(f"the model's {own} is {name}")
    for note in origin.notes:
        yield Text(f'note: {note}')
    at = _point(figures)
    where = "the card's thresholds" if at == 'card' else f'the fixed confidence, {at}'
    yield Text(
        f'mAP50 {shown(figures.map50)}   mAP50-95 {shown(figures.map50_95)}'
        '   all boxes, mean of the classes'
    )
    if colour_map50 and colour_map50.known:
        reach = span(colour_map50, '.3f')
        yield Text(f'four colours: mAP50 {colour_map50.value:.3f}, 95 % {reach}, all boxes')
    places = {
        f"the model's best F1, {figures.best_f1.confidence:.3f}": figures.best_f1,
        where: figures.fixed,
        f'{where}, all cones counted alike': figures.alike,
    }
    yield Table(
        ['all boxes, at', 'precision', 'recall'],
        [[name, shown(one.precision), shown(one.recall)] for name, one in places.items()],
    )
    yield class_table(figures)
    yield height_table(figures)


def class_table(figures: Metrics, title: str = '') -> Table:
    """Figures of each class."""
    at = _point(figures)
    return Table(
        ['class', 'cones', 'AP50', 'AP50-95', 'P best', 'R best', f'P {at}', f'R {at}'],
        [
            _row(name, each.truths, each.ap50, each.ap50_95, each.precision, each.recall,
                 each.fixed_precision, each.fixed_recall)
            for name, each in figures.per_class.items()
        ],
        title=title,
    )  # fmt: skip


def height_table(figures: Metrics, title: str = '') -> Table:
    """Figures of each band of box heights."""
    at, heights = _point(figures), f'height at {REFERENCE_WIDTH_PX} px'
    return Table(
        [heights, 'cones', 'mAP50', 'mAP50-95', f'P {at}', f'R {at}', 'P alike', 'R alike'],
        [
            _row(band_name(band.low_px, band.high_px), band.truths, band.map50, band.map50_95,
                 band.fixed.precision, band.fixed.recall, band.alike.precision, band.alike.recall)
            for band in figures.bands
        ],
        title=title,
    )  # fmt: skip


def _point(figures: Metrics) -> str:
    """The fixed operating point in a word."""
    at = figures.fixed.confidence
    return 'card' if math.isnan(at) else f'{at:g}'


def _row(name: str, cones: float, *figures: float) -> list[str]:
    return [name, f'{cones:g}', *(shown(figure, '.3f') for figure in figures)]


def shown(value: float | None, form: str = '.4f') -> str:
    """0.7081; a dash where it is not known."""
    return '–' if value is None or not math.isfinite(value) else f'{value:{form}}'


def span(figure: Interval, form: str = '+.4f') -> str:
    """An interval: -0.0012 to +0.0140."""
    return f'{shown(figure.low, form)} to {shown(figure.high, form)}'


def precision_chart(evaluation: Evaluation, title: str = '') -> Chart:
    """Best precision beyond each recall, at IoU 0.5, of each class that has a cone."""
    once = np.ones((1, len(evaluation.image_names)), np.int32)
    traces = []
    for name, ranked in zip(evaluation.class_names, rank(evaluation.matches), strict=True):
        if not (truths := ranked.truths.sum()):
            continue
        hits = np.cumsum(ranked.correct[:, 0])
        precision = hits / np.arange(1, len(hits) + 1)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], np.nan)
        ap50 = ranked.average_precisions(once, 1)[0, 0]
        blue, green, red = class_colour(name)
        traces.append(
            line(
                f'{short_name(name)}, AP50 {ap50:.3f}',
                RECALLS,
                envelope[np.searchsorted(hits / truths, RECALLS)],
                f'rgb({red},{green},{blue})',
            )
        )
    return chart(
        f'precision over recall {title}'.strip(),
        traces,
        title=title,
        x='recall',
        y='precision',
        caption=f'IoU 0.5, all boxes, {len(evaluation.image_names)} pictures.',
        half=True,
        x_axis={'range': [0, 1]},
        y_axis={'range': [0, 1.02]},
    )


def confusion_table(evaluation: Evaluation, confidence: Confidence, title: str = '') -> Table:
    """Detections of each class by what is there, and cones that were missed."""
    counts = confusion(evaluation, confidence)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    names = [short_name(name) for name in evaluation.class_names]
    rows: list[list[Piece]] = []
    for name, row, shares_of_row in zip([*names, 'missed'], counts, shares, strict=True):
        cells = zip(row.tolist(), shares_of_row, strict=True)
        rows.append([name, *(Cell(str(n) if n else '', title=f'{part:.0%}') for n, part in cells)])
    at = 'the thresholds of the card'
    if not isinstance(confidence, Mapping):
        at = f'confidence {confidence:g}'
    return Table(
        ['found as', *names, 'nothing'],
        rows,
        note=f'Columns: what is there; its share under the pointer. At {at}, IoU 0.5, all boxes.',
        half=True,
        title=title,
    )


def worst_pictures(evaluation: Evaluation, confidence: Confidence, title: str = '') -> Gallery:
    """The pictures with most missed and wrong. Raises DataError when the data set is gone."""
    missed, wrong = find_mistakes(evaluation, confidence)
    images, names = len(evaluation.image_names), evaluation.class_names
    missed_in = np.bincount(evaluation.truth_image[missed], minlength=images)
    wrong_in = np.bincount(evaluation.detection_image[wrong], minlength=images)
    errors = missed_in + wrong_in
    worst = [i for i in np.argsort(-errors, kind='stable')[:8].tolist() if errors[i]]
    paths = named_pictures(read_layout(Path(evaluation.origin.data)), evaluation.origin.split)
    pictures = []
    for index in worst:
        boxes = []
        for cone in np.flatnonzero(evaluation.truth_image == index):
            kind, class_id = 'missed' if missed[cone] else 'label', evaluation.truth_class[cone]
            boxes.append(Box(evaluation.truth_box_px[cone].tolist(), kind, names[class_id]))
        for found in np.flatnonzero(wrong & (evaluation.detection_image == index)):
            class_id, score = evaluation.detection_class[found], evaluation.detection_score[found]
            text = f'{names[class_id]} {score:.2f}'
            boxes.append(Box(evaluation.detection_box_px[found].tolist(), 'false', text))
        name, size_px = evaluation.image_names[index], evaluation.image_size_px[index].tolist()
        caption = f'{name}: {missed_in[index]} missed (red), {wrong_in[index]} wrong (magenta)'
        source = embed_picture(paths[name], 960)
        pictures.append(Picture(source, f'{title} {caption}'.strip(), tuple(size_px), boxes))
    return Gallery(pictures)
