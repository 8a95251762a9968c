"""Least score per class for a model card: where precision and recall balance best."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cone_perception.accuracy.matching import PictureMatch
from cone_perception.engines.open import open_engine
from cone_perception.model_card import read_bundle
from cone_perception.pipeline import ConeDetector
from training.judging.judge import LabelledSplit, match_bands

CANDIDATES = np.arange(10, 91) / 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', type=Path, required=True, help='bundle')
    parser.add_argument('--data', type=Path, nargs='+', required=True, help='YOLO data sets')
    parser.add_argument('--split', default='val')
    parser.add_argument(
        '--height', type=float, default=24, metavar='PX', help='least box height, at 1280 px width'
    )


def run(args: argparse.Namespace) -> int:
    """Print the arguments that `cone-training export --threshold` takes."""
    bundle = read_bundle(args.model)
    names = bundle.card.class_names
    sets: list[list[PictureMatch]] = []
    with ConeDetector(bundle.card, open_engine(bundle)) as detector:
        for data in args.data:
            pictures = tqdm(LabelledSplit(data, args.split, bundle.card), unit='picture')
            sets += match_bands(detector, pictures, [(args.height, float('inf'))])
    print(' '.join(f'{name}={best_threshold(sets, i):.2f}' for i, name in enumerate(names)))
    return 0


def best_threshold(sets: Sequence[Sequence[PictureMatch]], class_id: int) -> float:
    """The candidate with the best F1 of a class, averaged over the data sets that show it.

    0.5 where no set has a cone of this class.
    """
    curves = []
    for pictures in sets:
        truths = sum(int(picture.truth_count[class_id]) for picture in pictures)
        if not truths:
            continue
        score = np.concatenate([p.score[p.class_id == class_id] for p in pictures])
        correct = np.concatenate([p.correct[p.class_id == class_id] for p in pictures])
        kept = score >= CANDIDATES[:, None]
        # F1 = 2 TP / (found + truths), van Rijsbergen 1979.
        curves.append(2 * (kept & correct).sum(axis=1) / (kept.sum(axis=1) + truths))
    if not curves:
        return 0.5
    mean = np.asarray(np.mean(np.stack(curves), axis=0), np.float64)
    return float(CANDIDATES[int(mean.argmax())])


if __name__ == '__main__':
    from training.cli import main

    sys.exit(main(['thresholds', *sys.argv[1:]]))
