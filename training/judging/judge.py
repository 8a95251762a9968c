"""Accuracy of a model bundle on a labelled YOLO data set, through the pipeline that drives."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import yaml
from tqdm import tqdm

from cone_perception.accuracy.matching import PictureMatch, map50_interval, match_picture, summarise
from cone_perception.engines.open import open_engine
from cone_perception.errors import SourceError
from cone_perception.filters import Filters
from cone_perception.model_card import ModelCard, read_bundle, shipped_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Detections, Frame, Precision, RuntimeChoice

REFERENCE_WIDTH_PX = 1280
"""Box heights are stated as they would be in a picture this wide."""

COLOUR_CLASSES = ('blue_cone', 'yellow_cone', 'orange_cone', 'large_orange_cone')
LEAST_SCORE = 0.001
"""Average precision needs the whole ranking, as every evaluator keeps it (Ultralytics: 0.001)."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPicture:
    """One picture of a data set and the cones in it, in source pixels (score 1)."""

    frame: Frame
    truth: Detections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', type=Path, default=shipped_bundle(), help='bundle to judge')
    parser.add_argument('--data', type=Path, required=True, help='YOLO data set with data.yaml')
    parser.add_argument('--split', default='test', help='folder below --data (default: test)')
    parser.add_argument('--engine', choices=get_args(RuntimeChoice), default='auto')
    parser.add_argument('--precision', choices=get_args(Precision), help='default: what drives')
    parser.add_argument(
        '--heights',
        type=float,
        nargs='+',
        default=[24, 48, 96],
        metavar='PX',
        help='limits between box heights at 1280 px picture width; the first is the least judged',
    )
    parser.add_argument(
        '--block',
        type=int,
        default=10,
        help='consecutive pictures resampled together (default: 10)',
    )
    parser.add_argument('--json', type=Path, help='write the figures here')


def run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.model)
    with ConeDetector(
        bundle.card, open_engine(bundle, args.engine, precision=args.precision)
    ) as detector:
        pictures = LabelledSplit(args.data, args.split, bundle.card)
        figures = judge(detector, tqdm(pictures, unit='picture'), args.heights, args.block)
    print_figures(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')
    return 0


class LabelledSplit:
    """One split of a YOLO data set: `images/` and `labels/` below DATA/SPLIT."""

    def __init__(self, data: Path, split: str, card: ModelCard) -> None:
        self._class_of = _class_mapping(data / 'data.yaml', card)
        folder = data / split / 'images'
        self._images = sorted(
            path for path in folder.glob('*') if path.suffix.lower() in ('.jpg', '.jpeg', '.png')
        )
        if not self._images:
            raise SourceError(
                f'{folder} holds no jpg or png picture. Give --data and --split of a YOLO data set.'
            )

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[LabelledPicture]:
        for path in self._images:
            bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if bgr is None:
                raise SourceError(f'{path} cannot be decoded as a picture: replace or remove it.')
            labels = path.parents[1] / 'labels' / f'{path.stem}.txt'
            frame = Frame(bgr.astype(np.uint8, copy=False), source=path.name)
            yield LabelledPicture(frame, self._truth(labels, frame))

    def _truth(self, labels: Path, frame: Frame) -> Detections:
        """Cones of one label file; a missing file means no cones, as YOLO data sets have it."""
        lines = labels.read_text(encoding='utf-8').splitlines() if labels.is_file() else []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                class_id, *box = line.split()
                centre_x, centre_y, width, height = map(float, box)
                rows.append((self._class_of[int(class_id)], centre_x, centre_y, width, height))
            except (ValueError, KeyError) as error:
                raise SourceError(
                    f"{labels}:{number} is not 'class x y width height': {line!r}. Mend the label."
                ) from error
        table = np.array(rows, np.float32).reshape(-1, 5)
        size = np.array([frame.width_px, frame.height_px], np.float32)
        centre, extent = table[:, 1:3] * size, table[:, 3:5] * size
        corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)
        score = np.ones(len(table), np.float32)
        return Detections(corners, score, table[:, 0].astype(np.int64))


def judge(
    detector: ConeDetector,
    pictures: Iterable[LabelledPicture],
    heights_px: Sequence[float],
    block: int,
) -> dict[str, Any]:
    """Figures of a detector on labelled pictures, overall and between the limits `heights_px`."""
    card = detector.card
    limits = [*heights_px, float('inf')]
    bands = [(heights_px[0], float('inf')), *pairwise(limits)]
    matches = match_bands(detector, pictures, bands)
    return {
        'model': card.name,
        'network_sha256': detector.engine.info.network_sha256,
        'engine': detector.engine.info.runtime,
        'precision': detector.engine.info.precision,
        'pictures': len(matches[0]),
        'bands': [
            _band(card, band, low, high, block)
            for band, (low, high) in zip(matches, bands, strict=True)
        ],
    }


def match_bands(
    detector: ConeDetector,
    pictures: Iterable[LabelledPicture],
    bands: Sequence[tuple[float, float]],
) -> list[list[PictureMatch]]:
    """Match all that a detector finds, whatever its score: per band, one entry for each picture.

    bands: least and greatest box height, in pixels of a picture REFERENCE_WIDTH_PX wide.
    """
    names = detector.card.class_names
    everything = Filters(thresholds=dict.fromkeys(names, LEAST_SCORE))
    matches: list[list[PictureMatch]] = [[] for _ in bands]
    for picture in pictures:
        (found,), _ = detector.detect([picture.frame], everything)
        scale = picture.frame.width_px / REFERENCE_WIDTH_PX
        for band, (low, high) in zip(matches, bands, strict=True):
            band.append(match_picture(found, picture.truth, len(names), low * scale, high * scale))
    return matches


def _band(
    card: ModelCard, matches: Sequence[PictureMatch], low_px: float, high_px: float, block: int
) -> dict[str, Any]:
    summary = summarise(matches, card.class_names, card.thresholds)
    colours = [
        index
        for index, name in enumerate(card.class_names)
        if name in COLOUR_CLASSES and summary.per_class[name].truths
    ]
    ap50 = [summary.per_class[card.class_names[index]].ap50 for index in colours]
    return {
        'height_px': [low_px, high_px if math.isfinite(high_px) else None],
        'colour_map50': float(np.mean(ap50)) if ap50 else None,
        'colour_map50_interval': (
            map50_interval(matches, colours, len(card.class_names), block) if ap50 else None
        ),
        'overall': asdict(summary.overall),
        'per_class': {name: asdict(entry) for name, entry in summary.per_class.items()},
    }


def print_figures(figures: dict[str, Any]) -> None:
    """Print what `judge` returned as a table per band of box heights."""
    print(
        f'{figures["model"]} ({figures["precision"]}, {figures["engine"]}) '
        f'on {figures["pictures"]} pictures; heights at {REFERENCE_WIDTH_PX} px width'
    )
    for band in figures['bands']:
        low, high = band['height_px']
        print(f'\nboxes from {low:g} px' + (f' to {high:g} px' if high else ''))
        print(f'  {"class":20}{"truths":>8}{"found":>8}{"precision":>11}{"recall":>8}{"AP50":>8}')
        for name, entry in (*band['per_class'].items(), ('all (mAP50)', band['overall'])):
            print(
                f'  {name:20}{entry["truths"]:8}{entry["found"]:8}{entry["precision"]:11.3f}'
                f'{entry["recall"]:8.3f}{entry["ap50"]:8.3f}'
            )
        if band['colour_map50'] is not None:
            low, high = band['colour_map50_interval']
            print(f'  four colours: mAP50 {band["colour_map50"]:.3f}, 95 % {low:.3f} to {high:.3f}')


def _class_mapping(data_yaml: Path, card: ModelCard) -> dict[int, int]:
    """Class index in the data set -> class index of the model, by name."""
    try:
        names = yaml.safe_load(data_yaml.read_text(encoding='utf-8'))['names']
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise SourceError(f"{data_yaml} cannot be read, or has no 'names': {error}") from error
    named = dict(names) if isinstance(names, dict) else dict(enumerate(names))
    unknown = [name for name in named.values() if name not in card.class_names]
    if unknown:
        raise SourceError(
            f'{data_yaml} has the classes {", ".join(map(str, unknown))}, which the model '
            f'{card.name} does not have: it knows {", ".join(card.class_names)}. '
            'Rename them in data.yaml.'
        )
    return {int(index): card.class_names.index(name) for index, name in named.items()}
