"""A model's detections on a labelled split, cone by cone, as arrays.

Any two models can be compared later, without a GPU and without the pictures. No torch here.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.accuracy.intervals import Float64
from cone_perception.accuracy.matching import IOU_THRESHOLDS, Matches
from cone_perception.errors import OutputError, SourceError, told_as
from cone_perception.files import read_json, whole_file, write_json
from cone_perception.types import Float32, Int64

SCHEMA = 2
ARRAYS_FILE = 'evaluation.npz'
FACTS_FILE = 'evaluation.json'

REFERENCE_WIDTH_PX = 1280
"""Box heights are stated as they would be in a picture this wide."""

DRIVE = re.compile(r'(?:(?:accel|autox|skidpad|trackdrive)\d*|\d+)_', re.IGNORECASE)
"""Starts of file names that name one drive; FSOCO's (`amz_`) name a team with many drives."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The model and the data of an evaluation.

    weights, data: as they were given. weights_sha256: of the file, or of the bundle's network.
    data_sha256: of the split's pictures and labels. imgsz: height and width of the network's input,
    pixels; where it varies by picture, the longer side twice. layout: `anchors` (overlaps removed
    afterwards) or `end_to_end` (the head's own choice). runtime: with version and device.
    class_mapping: the model's class -> the data set's, where spelt or ordered differently. views:
    that the network saw of each picture.
    """

    weights: str
    weights_sha256: str
    data: str
    data_sha256: str
    split: str
    imgsz: tuple[int, int]
    layout: str
    runtime: str
    precision: str = 'fp32'
    class_mapping: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    views: str = 'whole'


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything found in I pictures, D detections, and everything that is there, T cones.

    class_names: in the order of the class indices below. image_names: relative to the split,
    sorted, each once. image_size_px: (I, 2) int64, width and height of each picture. band_px: (I,)
    float64, row of each picture around which the second look lay; NaN where there was none.
    detection_image, detection_class: (D,) int64. detection_score: (D,) float32, 0..1.
    detection_box_px: (D, 4) float32, source pixels: left, top, right, bottom.
    detection_match: (D, 10) int64, the cone that it is at each of IOU_THRESHOLDS, an index into
        the T cones; -1: none.
    detection_overlaps: (D,) int64, the cone of whatever class that it is at IoU 0.5; -1: none.
    truth_image, truth_class: (T,) int64. truth_box_px: (T, 4) float32, source pixels.
    Detections are in the order of the pictures, best score first.
    """

    origin: Origin
    class_names: tuple[str, ...]
    image_names: tuple[str, ...]
    image_size_px: Int64
    band_px: Float64
    detection_image: Int64
    detection_class: Int64
    detection_score: Float32
    detection_box_px: Float32
    detection_match: Int64
    detection_overlaps: Int64
    truth_image: Int64
    truth_class: Int64
    truth_box_px: Float32

    def __post_init__(self) -> None:
        images, found, truths = len(self.image_names), len(self.detection_score), self.truth_count
        classes = len(self.class_names)
        for name, shape, least, end in (
            ('image_size_px', (images, 2), 1, math.inf),
            ('band_px', (images,), -math.inf, math.inf),
            ('detection_image', (found,), 0, images),
            ('detection_class', (found,), 0, classes),
            ('detection_box_px', (found, 4), -math.inf, math.inf),
            ('detection_match', (found, len(IOU_THRESHOLDS)), -1, truths),
            ('detection_overlaps', (found,), -1, truths),
            ('truth_image', (truths,), 0, images),
            ('truth_class', (truths,), 0, classes),
            ('truth_box_px', (truths, 4), -math.inf, math.inf),
        ):
            values = getattr(self, name)
            if values.shape != shape:
                raise ValueError(f'{name} must be {shape}, got {values.shape}')
            if values.size and (values.min() < least or values.max() >= end):
                raise ValueError(
                    f'{name} must lie in {least}..{end - 1}, got {values.min()}..{values.max()}'
                )
        if list(self.image_names) != sorted(set(self.image_names)):
            raise ValueError('image_names must be sorted, each once')

    @property
    def truth_count(self) -> int:
        return len(self.truth_image)

    @property
    def matches(self) -> Matches:
        """Detections matched with cones; heights at REFERENCE_WIDTH_PX."""
        scale = REFERENCE_WIDTH_PX / self.image_size_px[:, 0]
        found, truth = self.detection_box_px, self.truth_box_px
        return Matches(
            len(self.image_names),
            len(self.class_names),
            self.detection_image,
            self.detection_class,
            self.detection_score,
            (found[:, 3] - found[:, 1]) * scale[self.detection_image],
            self.detection_match,
            self.truth_image,
            self.truth_class,
            (truth[:, 3] - truth[:, 1]) * scale[self.truth_image],
        )

    def groups(self, block: int = 1) -> tuple[Int64, str]:
        """(I,) int64 group of each picture, and a line on what a group is.

        A drive, where the file name begins with one (`autox2_17.jpg`); else `block` consecutive
        file numbers of one series (`amz_00053j.jpg`); else, and with block 1, the picture itself.
        """
        labels: list[tuple[str, str, int]] = []
        for name in self.image_names:
            parts = re.fullmatch(r'(.*?)(\d+)(\D*)', Path(name).stem.split('.rf.')[0])
            if parts and DRIVE.fullmatch(parts[1]):
                labels.append(('drive', parts[1], 0))
            elif parts and block > 1:
                series = f'{parts[1]}*{parts[3]}'
                labels.append((f'block of {block} file numbers', series, int(parts[2]) // block))
            else:
                labels.append(('picture', name, 0))
        number = {label: index for index, label in enumerate(dict.fromkeys(labels))}
        kinds = sorted({kind for kind, _, _ in labels})
        return np.array([number[label] for label in labels], np.int64), ' or '.join(kinds)


ARRAYS = tuple(
    f.name for f in fields(Evaluation) if f.name not in ('origin', 'class_names', 'image_names')
)


def save_evaluation(evaluation: Evaluation, folder: Path, figures: object) -> None:
    """Write arrays, and evaluation.json with what `metrics` made of them. Raises OutputError."""
    arrays = {name: getattr(evaluation, name) for name in ARRAYS}
    for name, array in arrays.items():
        if array.dtype == np.int64:
            arrays[name] = array.astype(np.int32)
    facts = {
        'schema': SCHEMA,
        'origin': evaluation.origin,
        'class_names': evaluation.class_names,
        'images': len(evaluation.image_names),
        'truths': evaluation.truth_count,
        'detections': len(evaluation.detection_score),
        'figures': figures,
    }
    with told_as(OutputError, f'{folder} cannot take the evaluation'):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / ARRAYS_FILE) as stream:
            np.savez_compressed(
                stream,
                class_names=np.array(evaluation.class_names, np.str_),
                image_names=np.array(evaluation.image_names, np.str_),
                **arrays,
            )
        write_json(folder / FACTS_FILE, facts)


def load_evaluation(folder: Path) -> Evaluation:
    """Read what `save_evaluation` wrote. Raises SourceError when that is not there, or damaged."""
    damages = (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile)
    advice = 'Make it again with `cone-training evaluate ... --out`.'
    with told_as(
        SourceError, f'{folder} holds no evaluation that can be read', *damages, advice=advice
    ):
        facts = read_json(folder / FACTS_FILE)
        if facts['schema'] != SCHEMA:
            raise ValueError(f'schema {facts["schema"]} is not {SCHEMA}')
        raw = dict(facts['origin'])
        raw |= {'imgsz': tuple(raw['imgsz']), 'notes': tuple(raw['notes'])}
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as stored:
            known: dict[str, Any] = {name: stored[name] for name in ARRAYS}
            for name in ('class_names', 'image_names'):
                known[name] = tuple(stored[name].tolist())
        for name in ARRAYS:
            if known[name].dtype.kind == 'i':
                known[name] = known[name].astype(np.int64)
        return Evaluation(origin=Origin(**raw), **known)
