"""Predictions for the pictures of a split: one form, whatever file the model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cone_perception.arguments import option
from cone_perception.dataset.split import LabelledSplit, canonical_names
from cone_perception.errors import ModelError
from cone_perception.types import (
    Detections,
    Float32,
    Int64,
    OutputLayout,
    Precision,
    RuntimeChoice,
    ViewName,
    Views,
    ViewsChoice,
)
from cone_perception.views import BANDS, Looks, above, merge

LEAST_SCORE = 0.001
"""Average precision needs the whole ranking; Ultralytics keeps it down to here."""

NMS_IOU = 0.7
"""Ultralytics' own when it validates."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Options of a run of a model; imgsz, device and layout are for weights (.pt) only."""

    imgsz: int = option(640, 'longer side in pixels, of .pt (640)')
    device: str | None = option(None, "cpu or a GPU's number, for .pt (a GPU if any)")
    layout: OutputLayout = option(
        'anchors', 'head of a .pt that has two, as YOLO26: the one that is exported (anchors)'
    )
    names: tuple[str, ...] = option((), 'classes of an .onnx that does not say them')
    engine: RuntimeChoice = option(
        'auto', 'what runs a bundle (auto: OpenVINO on the CPU, also where there is a GPU)'
    )
    precision: Precision | None = option(
        None, 'of a bundle (INT8, else FP32, else FP16; on a GPU the fastest that passed the gate)'
    )
    views: ViewsChoice = option(
        'auto', "parts of a picture that the network sees; auto: the card's, else whole (auto)"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Detections of one picture, best score first, in source pixels and the model's classes.

    network_box, network_truth: (N, 4) and (M, 4) float32, the same boxes and the picture's cones
    where they are matched, if not in source pixels: Ultralytics does it in those of the network's
    input.
    """

    cones: Detections
    network_box: Float32 | None = None
    network_truth: Float32 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """All that a model found. The fields are those of evaluation.Origin.

    class_names: the model's own, in its order. pictures: in the order of the split. looks: what
    each view of them showed before that was merged; empty for weights (.pt).
    """

    class_names: tuple[str, ...]
    pictures: tuple[Found, ...]
    weights_sha256: str
    imgsz: tuple[int, int]
    layout: OutputLayout
    runtime: str
    precision: Precision
    notes: tuple[str, ...] = ()
    views: Views = 'whole'
    looks: tuple[Looks, ...] = ()

    @property
    def cones(self) -> list[Detections]:
        """Detections of each picture."""
        return [each.cones for each in self.pictures]

    def at(self, thresholds: Mapping[ViewName, Float32]) -> Predictions:
        """What counts at these least scores, as `ConeDetector.detect` says it.

        Views that they do not name are left out; without those around the band there is no band.
        """
        pictures = []
        for cones, looks in zip(self.cones, self.looks, strict=True):
            kept = [(view, found) for view, found in looks if view.name in thresholds]
            band_px = cones.band_px if any(view.name in BANDS for view, _ in kept) else None
            pictures.append(Found(replace(merge(above(kept, thresholds)), band_px=band_px)))
        return replace(self, pictures=tuple(pictures))


def most_detections(split: LabelledSplit) -> int:
    """Detections of a picture that are kept: Ultralytics' 300, or as many as one has cones."""
    return max(300, *(len(rows) for rows in split.rows))


def class_mapping(model: Sequence[str], split: LabelledSplit, mapping: Mapping[str, str]) -> Int64:
    """(model classes,) int64: index into the split's classes of each of the model's; -1: ignored.

    mapping: what the user says: the model's name -> the data set's, '' to ignore what is found of
    it; '' -> a class that the model does not have, whose cones count as missed. Other names go by
    the project's table of aliases. Raises ModelError for a class that has no counterpart.
    """
    class_names = split.class_names
    targets = [name for entry in mapping.values() for name in entry.split(',')]
    unknown = [name for name in mapping if name and name not in model]
    unknown += [name for name in targets if name and name not in class_names]
    advice = (
        f'The model has {", ".join(model)}; the data set {", ".join(class_names)}. Say which is '
        'which: --map MODEL=DATA, --map MODEL= to ignore what it finds of that class, '
        '--map =DATA for one that it does not know.'
    )
    if unknown:
        raise ModelError(f'--map names {", ".join(unknown)}, which is not there. {advice}')
    result = []
    for own, name in zip(model, canonical_names(model), strict=True):
        target = mapping.get(own, name)
        if target and target not in class_names:
            raise ModelError(f'the data set has no class {own}. {advice}')
        result.append(class_names.index(target) if target else -1)
    without = set(mapping.get('', '').split(','))
    lacking = [
        class_names[index]
        for index in split.classes_there()
        if index not in result and class_names[index] not in without
    ]
    if lacking:
        raise ModelError(f'the model has no class {", ".join(lacking)}. {advice}')
    return np.array(result, np.int64)
