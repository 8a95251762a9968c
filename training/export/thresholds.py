"""Least scores for a model card, per class, and per class in each band.

whole picture: the best F1 of each class -> bands: the best F1 of far cones, as precise as the whole
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np

from cone_perception.accuracy.average_precision import RankedClass, rank
from cone_perception.dataset.split import LabelledSplit, read_split
from cone_perception.filters import Filters
from cone_perception.model_card import ModelCard, read_bundle
from cone_perception.types import ViewName, ViewsChoice
from cone_perception.views import BANDS, bands_of
from training.judging.evaluate import assemble, predict
from training.judging.predictions import ModelOptions, Predictions

CANDIDATES = np.arange(10, 91) / 100
OFFSETS = np.arange(16) / 50
"""What a band's thresholds may lie above those of the whole picture: 0 to 0.3."""
MOST = 0.95

FAR_PX = 24
"""Boxes lower than this, at 1280 px picture width, are far."""
ENOUGH_CONES = 100
"""Far cones that a class needs for an offset of its own."""

BandThresholds = Mapping[ViewName, Mapping[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sets(parser)
    parser.add_argument(
        '--height', type=float, default=24, metavar='PX', help='least box height, at 1280 px width'
    )
    parser.add_argument(
        '--views',
        choices=get_args(ViewsChoice),
        default='auto',
        help="parts of a picture that the network sees (default: the card's)",
    )


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Declare the bundle, and the data sets on which something is chosen for its card."""
    parser.add_argument('--model', type=Path, required=True, help='bundle')
    parser.add_argument('--data', type=Path, nargs='+', required=True, help='YOLO data sets')
    parser.add_argument('--split', default='val', help='split to choose on (default: val)')


def run(args: argparse.Namespace) -> int:
    """Print the arguments that `cone-training export` takes."""
    card, options = read_bundle(args.model).card, ModelOptions(views=args.views)
    sets = [SeenSplit.of(args.model, data, args.split, options) for data in args.data]
    views = sets[0].found.views
    ranked = [seen.whole(card.class_names, args.height) for seen in sets]
    whole = {name: best_threshold([each[name] for each in ranked]) for name in card.class_names}
    print(f'boxes from {args.height:g} px at 1280 px picture width', file=sys.stderr)
    words = ['--threshold', *(f'{name}={score:.2f}' for name, score in whole.items())]
    if bands_of(views):
        card = replace(card, thresholds=whole, views=views, view_thresholds={})
        chosen = choose_for_bands(card, sets)
        entries = ((view, *entry) for view, own in chosen.items() for entry in own.items())
        words += ['--views', views, '--view-threshold']
        words += [f'{view}:{name}={score:.2f}' for view, name, score in entries]
    print(*words)
    return 0


def best_threshold(sets: Sequence[RankedClass]) -> float:
    """The score with the best F1, averaged over the sets that show the class; 0.5: none does."""
    curves = []
    for ranked in sets:
        if ranked.truths.any():
            counts = [_counts([ranked], score) for score in CANDIDATES]
            curves.append([f1(*each) for each in counts])
    if not curves:
        return 0.5
    return float(CANDIDATES[int(np.mean(curves, axis=0).argmax())])


def f1(truths: int, found: int, correct: int) -> float:
    """Harmonic mean of precision and recall: 2 TP / (found + truths), van Rijsbergen 1979."""
    return 2 * correct / max(found + truths, 1)


def _counts(ranked: Sequence[RankedClass], least: float = 0.0) -> tuple[int, int, int]:
    """Cones, boxes from this score, and the right ones of these, all classes together."""
    once = np.ones((1, len(ranked[0].truths)), np.int32)
    truths, found, correct = np.sum([each.counts(once, least)[:, 0] for each in ranked], axis=0)
    return int(truths), int(found), int(correct)


@dataclass(frozen=True, slots=True, eq=False)
class SeenSplit:
    """A data set, and what the model saw in each view of its pictures."""

    model: Path
    split: LabelledSplit
    found: Predictions

    @classmethod
    def of(cls, model: Path, data: Path, split: str, options: ModelOptions) -> SeenSplit:
        """Let the model see the pictures of a split."""
        pictures = read_split(data, split)
        return cls(model, pictures, predict(model, pictures, options, {}))

    def whole(
        self, class_names: Sequence[str], low_px: float, high_px: float = math.inf
    ) -> dict[str, RankedClass]:
        """Boxes of these heights in whole pictures, by the model's class names."""
        everything = np.zeros(len(class_names), np.float32)
        seen = self.found.at({'whole': everything, 'tile': everything})
        judged = assemble(self.model, self.split, seen, {})
        ranked = dict(zip(judged.class_names, rank(judged.matches, low_px, high_px), strict=True))
        told = judged.origin.class_mapping
        return {name: ranked[told.get(name, name)] for name in class_names}

    def counted(self, card: ModelCard, bands: bool = True) -> tuple[float, float, float]:
        """Precision of all boxes at the card's thresholds, recall and F1 of far ones."""
        least = Filters().thresholds_by_view(card)
        if not bands:
            least = {view: own for view, own in least.items() if view not in BANDS}
        matches = assemble(self.model, self.split, self.found.at(least), {}).matches
        _, boxes, right = _counts(rank(matches))
        far = _counts(rank(matches, 0, FAR_PX))
        return right / max(boxes, 1), far[2] / max(far[0], 1), f1(*far)


def choose_for_bands(
    card: ModelCard, sets: Sequence[SeenSplit]
) -> dict[ViewName, dict[str, float]]:
    """View -> class -> least score, for the bands of the card's views.

    The best mean F1 of far cones over the sets with which no set's precision falls below that of
    its whole pictures; where none does, the one that falls least. One offset from the whole
    picture's thresholds for all classes of a view, then one for each class with ENOUGH_CONES.
    """
    own = [seen.counted(card, bands=False) for seen in sets]
    bands = bands_of(card.views)
    offset = dict.fromkeys(product(bands, card.class_names), float(OFFSETS[-1]))

    def with_offsets(offset: Mapping[tuple[ViewName, str], float]) -> ModelCard:
        chosen: dict[ViewName, dict[str, float]] = {view: {} for view in bands}
        for (view, name), more in offset.items():
            chosen[view][name] = round(min(card.thresholds[name] + more, MOST), 2)
        return replace(card, view_thresholds=chosen)

    def worth(offset: Mapping[tuple[ViewName, str], float]) -> tuple[float, float]:
        found = [seen.counted(with_offsets(offset)) for seen in sets]
        spare = min(now[0] - whole[0] for now, whole in zip(found, own, strict=True))
        return min(spare, 0.0), float(np.mean([far for _, _, far in found]))

    for keys in _together(bands, card.class_names, sets):
        trials = [offset | dict.fromkeys(keys, more) for more in OFFSETS.tolist()]
        offset = max(trials, key=worth)
    best = with_offsets(offset)
    for seen, before in zip(sets, own, strict=True):
        name = seen.split.data
        for views, figures in (('whole', before), (card.views, seen.counted(best))):
            precision, recall, far = figures
            print(
                f'{name}, {views}: precision {precision:.3f}; boxes under {FAR_PX} px: recall '
                f'{recall:.3f}, F1 {far:.3f}',
                file=sys.stderr,
            )
    return {view: dict(best.view_thresholds[view]) for view in bands}


def _together(
    bands: Sequence[ViewName], class_names: Sequence[str], sets: Sequence[SeenSplit]
) -> Iterator[list[tuple[ViewName, str]]]:
    """Entries that share an offset: all classes of a view, then each class that has many cones."""
    far = [seen.whole(class_names, 0, FAR_PX) for seen in sets]
    for view in bands:
        yield [(view, name) for name in class_names]
    for view, name in product(bands, class_names):
        if sum(each[name].truths.sum() for each in far) >= ENOUGH_CONES:
            yield [(view, name)]
