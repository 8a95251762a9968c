"""Report of a verification: counts of each split, problems, and every picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.layout import Problem
from cone_perception.dataset.pictures import LabelledPicture
from cone_perception.types import Float32

HEIGHT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Counts of a split.

    pictures: as listed. background: without a box. dropped: what Ultralytics would leave out.
    boxes: per class of the project, faulty lines left out. height_px: quantiles
    (HEIGHT_QUANTILES) of the boxes' heights, in pixels of the picture; empty without boxes.
    """

    pictures: int
    background: int
    dropped: int
    boxes: Mapping[str, int]
    height_px: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DataReport:
    """Findings of `verify_dataset`.

    path: data.yaml. expected: pictures per split, as asked. names: classes as data.yaml has them.
    mapping: class number in the labels -> class number of the project. counts: per split.
    problems: fatal ones first. would_drop: pictures that Ultralytics would leave out.
    manifest_sha256: of the manifest beside the data, empty if there is none. pictures: per split;
    not part of the JSON.
    """

    path: Path
    expected: Mapping[str, int]
    names: tuple[str, ...]
    mapping: Mapping[int, int]
    counts: Mapping[str, SplitCounts]
    problems: tuple[Problem, ...]
    would_drop: tuple[Path, ...]
    manifest_sha256: str
    pictures: Mapping[str, tuple[LabelledPicture, ...]] = field(repr=False)

    @property
    def ok(self) -> bool:
        """No problem is fatal."""
        return not any(problem.fatal for problem in self.problems)

    @property
    def class_mapping(self) -> dict[str, str | None]:
        """Name in data.yaml -> name in the project; None: there is none."""
        return {
            name: CLASS_NAMES[self.mapping[index]] if index in self.mapping else None
            for index, name in enumerate(self.names)
        }

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON has it."""
        return {
            'schema': 1,
            'data': str(self.path),
            'ok': self.ok,
            'manifest_sha256': self.manifest_sha256,
            'names': list(self.names),
            'mapping': self.class_mapping,
            'expected': dict(self.expected),
            'counts': {split: asdict(counts) for split, counts in self.counts.items()},
            'would_drop': list(map(str, self.would_drop)),
            'problems': list(map(asdict, self.problems)),
        }


def map_rows(rows: Float32, mapping: Mapping[int, int]) -> Float32:
    """(N, 5) rows with the project's class numbers; rows of classes without one are left out."""
    known: Float32 = rows[np.isin(rows[:, 0], list(mapping))]  # a copy: taken by a mask
    known[:, 0] = [mapping[int(class_id)] for class_id in known[:, 0]]
    return known


def box_heights_px(pictures: Iterable[LabelledPicture]) -> Float32:
    """(N,) heights of all boxes, in pixels of their pictures."""
    heights = [picture.labels.rows[:, 4] * picture.size_px[1] for picture in pictures]
    return np.concatenate([np.zeros(0, np.float32), *heights]).astype(np.float32)


def count_split(pictures: Iterable[LabelledPicture], mapping: Mapping[int, int]) -> SplitCounts:
    entries = list(pictures)
    rows = [map_rows(picture.labels.rows, mapping)[:, 0] for picture in entries]
    classes = np.concatenate([np.zeros(0), *rows]).astype(int)
    boxes = np.bincount(classes, minlength=len(CLASS_NAMES)).tolist()
    heights = box_heights_px(entries)
    return SplitCounts(
        pictures=len(entries),
        background=sum(not len(picture.labels.rows) for picture in entries),
        dropped=sum(picture.dropped for picture in entries),
        boxes=dict(zip(CLASS_NAMES, boxes, strict=True)),
        height_px=tuple(np.quantile(heights, HEIGHT_QUANTILES).round(2).tolist())
        if len(heights)
        else (),
    )
