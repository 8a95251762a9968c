"""`cone-training evaluate`: figures of a model on a labelled split, as tables, JSON and a page."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cone_perception.accuracy.average_precision import map50, rank
from cone_perception.accuracy.intervals import Interval, resampled
from cone_perception.arguments import add_fields, read_fields, zero_or_more
from cone_perception.classes import CLASS_NAMES, UNKNOWN
from cone_perception.errors import SettingsError
from cone_perception.files import to_json
from training.judging.evaluate import evaluate_driven, is_bundle
from training.judging.evaluation import REFERENCE_WIDTH_PX, Evaluation
from training.judging.metrics import (
    FIXED_CONFIDENCE,
    HEIGHT_BANDS_PX,
    Confidence,
    metrics,
    with_point_of,
)
from training.judging.page import figure_blocks, print_blocks, write_evaluation
from training.judging.predictions import ModelOptions
from training.ultralytics_cpu import Trust

COLOURS = tuple(name for name in CLASS_NAMES if name != CLASS_NAMES[UNKNOWN])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('weights', type=Path, help='.pt, .onnx, or the folder of a model bundle')
    add_options(parser)
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what `judge` takes too."""
    parser.add_argument('--data', type=Path, required=True, help='YOLO data set with data.yaml')
    parser.add_argument('--split', default='test', help='split to judge on (default: test)')
    add_fields(parser, ModelOptions)
    parser.add_argument('--trust', action=Trust)
    parser.add_argument(
        '--map',
        action='append',
        default=[],
        metavar='MODEL=DATA',
        help="class of the model that is the data set's; MODEL= ignores it; =DATA: not known to it",
    )
    parser.add_argument(
        '--operating-point',
        choices=('confidence', 'card'),
        default='confidence',
        help='where precision and recall are read: at --confidence, or at the thresholds of a '
        "bundle's card (default: confidence)",
    )
    parser.add_argument(
        '--confidence',
        type=float,
        default=FIXED_CONFIDENCE,
        help='least score, the same for all classes (default: %(default)s)',
    )
    parser.add_argument(
        '--heights',
        type=zero_or_more,
        nargs='+',
        default=[high for _, high in HEIGHT_BANDS_PX[:-1]],
        metavar='PX',
        help=f'limits between box heights at {REFERENCE_WIDTH_PX} px picture width, which are '
        'told apart (default: 12 24 48 96)',
    )
    parser.add_argument(
        '--block',
        type=int,
        default=10,
        help='consecutive file numbers that the intervals take as one, but for whole drives '
        '(default: 10)',
    )
    parser.add_argument(
        '--out', type=Path, help='folder for evaluation.npz, figures and a page with charts'
    )


def run(args: argparse.Namespace) -> int:
    found = tabulate(args)
    if args.json:
        print(to_json(found, indent=2))
    else:
        print_blocks(figure_blocks(**found))
    return 0


def tabulate(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, and write where --out says; what `figure_blocks` shows, and JSON holds."""
    at_card = args.operating_point == 'card'
    if at_card and not is_bundle(args.weights):
        raise SettingsError(
            f'--operating-point card: {args.weights} has no card with thresholds. Give the '
            'folder of a bundle, or --confidence.'
        )
    options, mapping = read_fields(ModelOptions, args), read_mapping(args.map)
    evaluation, driven = evaluate_driven(args.weights, args.data, args.split, options, mapping)
    confidence: Confidence = args.confidence
    limits = [0.0, *sorted(set(args.heights) - {0.0}), math.inf]
    bands_px = list(pairwise(limits))
    if not at_card:
        driven = None
    if driven is not None:
        confidence = dict.fromkeys(evaluation.class_names, 0.0)  # thresholds of each view passed
    figures = metrics(evaluation, confidence=confidence, bands_px=bands_px)
    if driven is not None:
        at = metrics(driven, confidence=confidence, bands_px=bands_px)
        figures = with_point_of(figures, at)
    if args.out:
        write_evaluation(evaluation, args.out, figures, confidence, driven)
        print(f'written to {args.out}', file=sys.stderr)
    colours = colour_map50(evaluation, args.block)
    return {'origin': evaluation.origin, 'figures': figures, 'colour_map50': colours}


def colour_map50(evaluation: Evaluation, block: int) -> Interval:
    """Mean AP50 of the four colours with its interval over groups, see `Evaluation.groups`."""
    ranked = [
        each
        for name, each in zip(evaluation.class_names, rank(evaluation.matches), strict=True)
        if name in COLOURS and each.truths.any()
    ]
    if not ranked:
        return Interval(math.nan)
    return resampled(lambda weights: map50(ranked, weights), evaluation.groups(block)[0], 1000)


def read_mapping(entries: Sequence[str]) -> dict[str, str]:
    """`MODEL=DATA` entries -> mapping. Several `=DATA` are joined by commas."""
    mapping: dict[str, str] = {}
    for entry in entries:
        own, equals, name = entry.partition('=')
        if not equals or (own and own in mapping) or not (own or name):
            raise SettingsError(f'--map {entry}: write it as MODEL=DATA, each class once')
        mapping[own] = f'{mapping[own]},{name}' if own in mapping else name
    return mapping
