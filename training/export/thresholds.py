"""Least score per class for a model card: where precision and recall balance best."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cone_perception.accuracy.average_precision import RankedClass, rank
from cone_perception.model_card import read_bundle
from training.judging.evaluate import evaluate

CANDIDATES = np.arange(10, 91) / 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', type=Path, required=True, help='bundle')
    parser.add_argument('--data', type=Path, nargs='+', required=True, help='YOLO data sets')
    parser.add_argument('--split', default='val', help='split to choose on (default: val)')
    parser.add_argument(
        '--height', type=float, default=24, metavar='PX', help='least box height, at 1280 px width'
    )


def run(args: argparse.Namespace) -> int:
    """Print the arguments that `cone-training export --threshold` takes."""
    names = read_bundle(args.model).card.class_names
    sets: list[dict[str, RankedClass]] = []
    for data in args.data:
        found = evaluate(args.model, data, args.split)
        ranked = dict(zip(found.class_names, rank(found.matches, args.height), strict=True))
        told = found.origin.class_mapping
        sets.append({name: ranked[told.get(name, name)] for name in names})
    print(f'boxes from {args.height:g} px at 1280 px picture width', file=sys.stderr)
    print(' '.join(f'{name}={best_threshold([s[name] for s in sets]):.2f}' for name in names))
    return 0


def best_threshold(sets: Sequence[RankedClass]) -> float:
    """The score with the best F1, averaged over the sets that show the class; 0.5: none does."""
    curves = []
    for ranked in sets:
        if ranked.truths.any():
            once = np.ones((1, len(ranked.truths)), np.int32)
            counts = [ranked.counts(once, score)[:, 0] for score in CANDIDATES]
            truths, found, correct = np.stack(counts, axis=1)
            # F1 = 2 TP / (found + truths), van Rijsbergen 1979.
            curves.append(2 * correct / (found + truths))
    if not curves:
        return 0.5
    return float(CANDIDATES[int(np.mean(curves, axis=0).argmax())])
