"""Probabilities of classes for a model card: what its scores have turned out to mean.

bundle, labelled pictures -> detections, and the cone that each of them is -> three numbers
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cone_perception.accuracy.intervals import Float64, Int32, Interval, resampled
from cone_perception.accuracy.matching import Bool
from cone_perception.classes import ClassCalibration
from cone_perception.errors import DataError, ModelError
from cone_perception.files import without_nan, write_whole
from cone_perception.filters import Filters
from cone_perception.model_card import CARD_FILE, ModelCard, read_bundle
from cone_perception.pages.blocks import Chart, Page, Section, Table
from cone_perception.pages.charts import chart, line
from cone_perception.pages.page import write_page
from cone_perception.pictures.draw import short_name
from cone_perception.types import Detections, Int64
from training.export.thresholds import SeenSplit, add_sets
from training.judging.evaluate import assemble
from training.judging.page import print_blocks, shown, span
from training.judging.predictions import ModelOptions, class_mapping

BINS = 15
"""Of equal mass: of those of equal width most would be nearly empty. Guo et al. 2017 have 15."""
ENOUGH_DETECTIONS = 300
BLOCK = 10
"""Consecutive file numbers that an interval takes as one, as `cone-training evaluate` does."""
BOUNDS = ((0.05, 20.0), (-20.0, 20.0), (0.05, 20.0))
"""Of slope, offset and temperature."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sets(parser)
    tests = "YOLO data sets on whose split 'test' the outcome is judged"
    parser.add_argument('--test', type=Path, nargs='+', default=[], help=tests)
    parser.add_argument('--out', type=Path, help='folder for calibration.html')


def run(args: argparse.Namespace) -> int:
    """Fit, judge before and after, and write the card's entry `class_calibration`."""
    bundle = read_bundle(args.model)
    card = replace(bundle.card, class_calibration=None)
    if card.output_layout != 'anchors':
        raise ModelError(
            f'{args.model} tells the score of the best class alone, and nothing of the others: '
            'export it with `--layout anchors`.'
        )
    wanted = [(data, args.split) for data in args.data] + [(data, 'test') for data in args.test]
    seen = [SeenSplit.of(args.model, data, split, ModelOptions()) for data, split in wanted]
    judged = [Judged.of(each, card) for each in seen]
    calibration = fit(judged[: len(args.data)])
    after = replace(card, class_calibration=calibration)
    table = error_table(judged, card, after)
    print_blocks([table])
    if args.out:
        charts = [reliability(each, card, after) for each in judged]
        sections = [Section('Calibration errors', [table]), Section('Reliability', charts)]
        args.out.mkdir(parents=True, exist_ok=True)
        page = Page(f'Class probabilities of {card.name}', wide=True, sections=sections)
        write_page(args.out / 'calibration.html', page)
    fitted = {
        'on': [each.name for each in judged[: len(args.data)]],
        'precision': seen[0].found.precision,
        'views': seen[0].found.views,
        'expected_calibration_error': {each.name: each.error(after).value for each in judged},
    }
    entry = replace(calibration, fitted=without_nan(fitted, digits=3))
    write_whole(bundle.folder / CARD_FILE, replace(card, class_calibration=entry).to_json())
    return 0


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a bundle publishes of some pictures, and what is there.

    cones: N detections over the card's thresholds. event: (N,) int64, class of the cone that each
    of them is, in the model's order; the number of classes: it is none. image: (N,) int64. group:
    (pictures,) int64, of those that an interval takes as one.
    A detection is the cone that it overlaps most by IoU 0.5 or more, whatever the class of either;
    each cone is one detection's, the best score first. So every other figure of accuracy has it.
    """

    name: str
    cones: Detections
    event: Int64
    image: Int64
    group: Int64

    @classmethod
    def of(cls, seen: SeenSplit, card: ModelCard) -> Judged:
        """Match what counts at the card's thresholds."""
        found = seen.found.at(Filters().thresholds_by_view(card))
        evaluation = assemble(seen.model, seen.split, found, {})
        there = class_mapping(found.class_names, seen.split, {})
        own = np.full(len(seen.split.class_names) + 1, len(there))
        own[there] = np.arange(len(there))
        truth = np.append(evaluation.truth_class, -1)[evaluation.detection_overlaps]
        name = f'{seen.split.split} of {seen.split.data.resolve().name}'
        cones = Detections.joined(found.cones)
        return cls(name, cones, own[truth], evaluation.detection_image, evaluation.groups(BLOCK)[0])

    def error(self, card: ModelCard, class_id: int | None = None) -> Interval:
        """Expected calibration error of the likeliest class's probability, or of one class's."""
        probability, hit = self.outcome(card, class_id)
        if not len(hit):
            return Interval(math.nan)
        return resampled(calibration_error(probability, hit, self.image), self.group, 1000)

    def outcome(self, card: ModelCard, class_id: int | None = None) -> tuple[Float64, Bool]:
        """(N,) probability of the likeliest class, or of one class; (N,) bool: is it the one."""
        every = card.probabilities(self.cones).astype(np.float64)
        chosen = every.argmax(axis=1) if class_id is None else np.full(len(every), class_id)
        return every[np.arange(len(every)), chosen], self.event == chosen


def calibration_error(probability: Float64, hit: Bool, image: Int64) -> Callable[[Int32], Float64]:
    """Mean gap between probability and share of hits, over BINS with as many detections each.

    As a figure of (R, pictures) int32, how often each counts: (R,) float64.
    """
    order = np.argsort(probability, kind='stable')
    gap, where = (probability - hit)[order], image[order]
    first = [each[0] for each in _bins(len(order))]

    def figure(weights: Int32) -> Float64:
        times = weights[:, where]
        gaps = np.abs(np.add.reduceat(times * gap, first, axis=1)).sum(axis=1)
        return np.asarray(gaps / np.maximum(times.sum(axis=1), 1), np.float64)

    return figure


def _bins(count: int) -> list[Int64]:
    """Places in a sorted list of so many, in BINS parts; fewer where there are not so many."""
    return [part for part in np.array_split(np.arange(count), BINS) if len(part)]


def fit(sets: Sequence[Judged]) -> ClassCalibration:
    """The likeliest numbers, each set counting alike. Raises DataError: too few detections."""
    from scipy.optimize import minimize

    if (count := sum(len(each.event) for each in sets)) < ENOUGH_DETECTIONS:
        raise DataError(
            f'the model finds {count} cones in these pictures, and {ENOUGH_DETECTIONS} are the '
            'fewest that tell what its scores mean: give more pictures.'
        )

    def loss(values: Float64) -> float:
        calibration = ClassCalibration(*values.tolist())
        return float(np.mean([-np.log(_of_event(calibration, each)).mean() for each in sets]))

    best = minimize(loss, (1.0, 0.0, 1.0), method='Nelder-Mead', bounds=BOUNDS)
    return ClassCalibration(*(round(value, 4) for value in best.x.tolist()))


def _of_event(calibration: ClassCalibration, judged: Judged) -> Float64:
    """(N,) probability of what each detection is."""
    assert judged.cones.class_score is not None
    classes = judged.cones.class_score.shape[1]
    every = calibration.probabilities(judged.cones, classes).astype(np.float64)
    every = np.column_stack([every, 1 - every.sum(axis=1)])
    return np.asarray(np.maximum(every[np.arange(len(every)), judged.event], 1e-30))


def error_table(sets: Sequence[Judged], before: ModelCard, after: ModelCard) -> Table:
    """Expected calibration errors of each set."""
    names = before.class_names
    rows = []
    for each in sets:
        error = each.error(after)
        of_class = (each.error(after, class_id).value for class_id in range(len(names)))
        figures = (each.error(before).value, error.value, *of_class)
        reach = span(error, '.3f')
        start, *own = (shown(value, '.3f') for value in figures)
        nothing = f'{np.mean(each.event == len(names)):.1%}' if len(each.event) else '–'
        rows.append([each.name, f'{len(each.event)}', nothing, start, own[0], reach, *own[1:]])
    columns = ['set', 'detections', 'no cone', 'before', 'after', '95 %', *map(short_name, names)]
    note = (
        f'Expected calibration error of the likeliest class, {BINS} bins of as many detections; '
        'the last columns: of each class, after. Detections over the thresholds of the card, IoU '
        '0.5. An interval lies rather high: each resample adds noise of its own.'
    )
    return Table(columns, rows, note=note)


def reliability(judged: Judged, before: ModelCard, after: ModelCard) -> Chart:
    """Share of detections that are of their likeliest class, over its probability."""
    traces = [line('as it should be', [0, 1], [0, 1], '--dim', dash='dot')]
    for name, card, colour in (('before', before, '--orange'), ('after', after, '--blue')):
        probability, hit = judged.outcome(card)
        order = np.argsort(probability, kind='stable')
        at = [
            (probability[order[part]].mean(), hit[order[part]].mean()) for part in _bins(len(hit))
        ]
        x, y = np.array(at).reshape(-1, 2).T
        traces.append(line(name, x, y, colour, marks=True))
    return chart(
        f'reliability, {judged.name}',
        traces,
        title=judged.name,
        x='probability of the likeliest class',
        y='share that is one',
        caption=f'{len(judged.event)} detections.',
        half=True,
        x_axis={'range': [0, 1.02]},
        y_axis={'range': [0, 1.02]},
    )
