"""Pictures that set the scales of a quantised network: chosen, listed, and never those of test.

split of a data set -> pictures that cover classes, box sizes and brightness -> a view of each
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.accuracy.intervals import Float64
from cone_perception.dataset.labels import corners_px, read_labels
from cone_perception.dataset.layout import Layout, label_path, read_layout
from cone_perception.dataset.split import shared_folder
from cone_perception.errors import DataError, SettingsError, SourceError
from cone_perception.images import read_picture
from cone_perception.model_card import file_sha256
from cone_perception.preprocess import to_planes, whole_view
from cone_perception.types import Detections, Float32, UInt8, Views
from cone_perception.views import bands_of, far_row, views_of
from training.data.manifest import MANIFEST, read_manifest

LEAST_PICTURES = 100
ENOUGH_PICTURES = 300
"""Fewer than the first are refused by `export`, fewer than the second warned about."""

HEIGHTS_PX = (8, 16, 32, 64, 128)
"""Limits between box sizes, in pixels of the network's input."""

UNLABELLED_ROW = 0.45
"""Row of the band, as a share of the height, in a picture without labels."""

GREYS = (50, 80, 110, 140, 180)
"""Limits between dark and bright pictures: mean grey, 0..255."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Pictures, in order, that set the scales of a network with this input.

    views: that the network sees; each picture is shown in one of them, all in turn.
    """

    pictures: tuple[Path, ...]
    height_px: int
    width_px: int
    views: Views = 'whole'

    @classmethod
    def from_folder(
        cls, folder: Path, count: int, height_px: int, width_px: int, views: Views = 'whole'
    ) -> Calibration:
        """`count` pictures of a folder, evenly spaced in the order of their names; fewer if it has
        fewer. Those of a test split are left out; SourceError when none is left.
        """
        above = folder.resolve().parts[-2:]
        found = [
            path
            for path in sorted(folder.rglob('*'))
            if path.suffix.lower() in ('.jpg', '.png')
            and 'test' not in (*above, *path.relative_to(folder).parts[:-1])
        ]
        if not found:
            raise SourceError(
                f'{folder} holds no pictures that are not of a test split. Give the training '
                'pictures of a data set.'
            )
        return cls(_evenly_spaced(found, count), height_px, width_px, views)

    @classmethod
    def from_split(
        cls,
        data: Path,
        split: str,
        count: int,
        height_px: int,
        width_px: int,
        views: Views = 'whole',
    ) -> Calibration:
        """`count` pictures of a split that cover classes, box sizes and brightness; fewer if it
        has fewer. The same ones each time. Raises SettingsError for the test split, DataError where
        a picture is one of test's.
        """
        if split not in ('train', 'val'):
            raise SettingsError(
                f'calibration pictures come from train or val, not from {split}: a model that has '
                'seen what judges it is judged too well.'
            )
        layout = read_layout(data)
        candidates = _evenly_spaced(layout.splits.get(split, ()), 3000)  # the most to look at
        if not candidates:
            raise DataError(f'{layout.data_yaml} has no pictures for the split {split!r}.')
        strata = _strata(candidates, len(layout.names), height_px, width_px)
        order = cover(strata, min(count, len(candidates)))
        chosen = tuple(sorted(candidates[i] for i in order))
        calibration = cls(chosen, height_px, width_px, views)
        calibration.refuse_test_pictures(layout)
        return calibration

    def refuse_test_pictures(self, layout: Layout) -> None:
        """Raise DataError when a picture is one of test, by path or by content (the manifest's)."""
        held_out = set(layout.splits.get('test', ()))
        if (layout.root / MANIFEST).is_file():
            files = read_manifest(layout.root).files
            held_out |= {layout.root / file.path for file in files if file.split == 'test'}
            hashes = {file.sha256 for file in files if file.split == 'test'}
        else:
            hashes = {file_sha256(path) for path in held_out}
        for path in self.pictures:
            if path in held_out or file_sha256(path) in hashes:
                raise DataError(
                    f'{path} is a picture of the test split of {layout.data_yaml}: calibration '
                    'never sees those. Remove it from the other split '
                    '(`cone-training data leaks` finds all of them).'
                )

    def __iter__(self) -> Iterator[Float32]:
        """Network inputs, (1, 3, H, W) float32 RGB in 0..1, prepared as while driving."""
        return map(to_planes, self.shown())

    def shown(self) -> Iterator[UInt8]:
        """(H, W, 3) uint8 BGR: one view of each picture."""
        network = self.height_px, self.width_px
        for index, path in enumerate(self.pictures):
            bgr = read_picture(path)
            size: tuple[int, int] = bgr.shape[0], bgr.shape[1]
            row_px = _labelled_row(path, *size, network) if bands_of(self.views) else None
            views = views_of(*size, network, self.views, row_px)
            view = np.empty((*network, 3), np.uint8)
            views[index % len(views)].apply(bgr, view)
            yield view

    def sha256(self) -> str:
        """Over the pictures' bytes in their order, lower-case hex."""
        digest = hashlib.sha256()
        for path in self.pictures:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def listing(self) -> str:
        """A line for each picture: its hash and its name below the folder that holds them all."""
        root = shared_folder(self.pictures)
        return ''.join(f'{file_sha256(p)}  {p.relative_to(root)}\n' for p in self.pictures)


def choose_pictures(
    data: Path | None,
    split: str,
    folder: Path | None,
    count: int,
    height_px: int,
    width_px: int,
    views: Views = 'whole',
) -> Calibration:
    """Take the pictures of `folder` where one is given, else those of the split of `data`.

    Warns about fewer than ENOUGH_PICTURES. Raises SettingsError when there are too few.
    """
    if folder:
        found = Calibration.from_folder(folder, count, height_px, width_px, views)
        if data:
            found.refuse_test_pictures(read_layout(data))
    else:
        assert data is not None
        found = Calibration.from_split(data, split, count, height_px, width_px, views)
    there = f'{len(found.pictures)} calibration pictures'
    if len(found.pictures) < LEAST_PICTURES:
        raise SettingsError(
            f'{there} are too few: give at least {LEAST_PICTURES}, better {ENOUGH_PICTURES}.'
        )
    if len(found.pictures) < ENOUGH_PICTURES:
        surer = f'with {ENOUGH_PICTURES} the scales would be surer.'
        print(f'Only {there}: {surer}', file=sys.stderr)
    return found


def cover(strata: Float64, count: int) -> list[int]:
    """Indices of `count` pictures, each the one that adds most to what is covered so far.

    strata: (pictures, kinds), how much a picture shows of a kind, 0 or 1. The n-th picture of a
    kind is worth 1/n, so that rare kinds are not drowned by common ones. Equal ones: the first.
    """
    covered = np.zeros(strata.shape[1])
    left = np.ones(len(strata), bool)
    chosen = []
    for _ in range(count):
        worth = np.where(left, strata @ (1 / (1 + covered)), -1)
        best = int(worth.argmax())
        chosen.append(best)
        left[best] = False
        covered += strata[best]
    return chosen


def _strata(pictures: Sequence[Path], classes: int, height_px: int, width_px: int) -> Float64:
    """(pictures, kinds) 0 or 1: classes by box size, no cone at all, brightness."""
    sizes = len(HEIGHTS_PX) + 1
    strata = np.zeros((len(pictures), classes * sizes + 1 + len(GREYS) + 1))
    for row, path in zip(strata, tqdm(pictures, desc='choose', unit='picture'), strict=True):
        small = read_picture(path, flags=cv2.IMREAD_REDUCED_GRAYSCALE_4)
        labels = read_labels(label_path(path), classes).rows
        scale = min(height_px / small.shape[0], width_px / small.shape[1])
        size = np.searchsorted(HEIGHTS_PX, labels[:, 4] * small.shape[0] * scale, side='right')
        row[labels[:, 0].astype(int) * sizes + size] = 1
        row[classes * sizes] = not len(labels)
        row[classes * sizes + 1 + int(np.searchsorted(GREYS, float(small.mean())))] = 1
    return strata


def _labelled_row(picture: Path, height_px: int, width_px: int, network: tuple[int, int]) -> float:
    """Row of a picture's far cones, by its labels."""
    rows = read_labels(label_path(picture), sys.maxsize).rows
    boxes = corners_px(rows, width_px, height_px)
    labelled = Detections(boxes, np.ones(len(rows), np.float32), np.zeros(len(rows), np.int64))
    scale = whole_view(height_px, width_px, network).patches[0].scale
    row_px = far_row(labelled, scale)
    return UNLABELLED_ROW * height_px if row_px is None else row_px


def _evenly_spaced(paths: Sequence[Path], count: int) -> tuple[Path, ...]:
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return tuple(paths[index] for index in chosen)
