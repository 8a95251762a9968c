"""What a model found on a labelled split, cone by cone, and the figures that follow from it.

An Evaluation is kept as arrays, so that any two models can be compared later, without a GPU and
without the pictures. No torch here.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cone_perception.errors import OutputError, SourceError
from cone_perception.types import Float32, Int64

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

SCHEMA = 1
ARRAYS_FILE = 'evaluation.npz'
FACTS_FILE = 'evaluation.json'

IOU_THRESHOLDS = (np.arange(50, 100, 5) / 100).astype(np.float32)
"""Overlaps at which a detection may count as right; mAP50-95 averages over them (COCO)."""

RECALL_POINTS = np.linspace(0, 1, 101)
CONFIDENCE_POINTS = np.linspace(0, 1, 1000)
"""Where Ultralytics reads its curves of precision and recall over the confidence."""

SMOOTHING_POINTS = 101
"""Width of the box filter over the mean F1 curve, a tenth of it, as Ultralytics has it."""

FIXED_CONFIDENCE = 0.25
REFERENCE_WIDTH_PX = 1280
"""Box heights are stated as they would be in a picture this wide."""

HEIGHT_BANDS_PX = ((0.0, 12.0), (12.0, 24.0), (24.0, 48.0), (48.0, 96.0), (96.0, math.inf))

DRIVE = re.compile(r'(?:(?:accel|autox|skidpad|trackdrive)\d*|\d+)_', re.IGNORECASE)
"""Starts of file names that name one drive; FSOCO's (`amz_`) name a team with many drives."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What was judged on what.

    weights, data: as they were given. weights_sha256: of the file, or of the bundle's network.
    data_sha256: of the split's pictures and labels. split: of data. imgsz: height and width of the
    network's input, pixels; where it varies by picture, the longer side twice. layout: of the
    output that was judged: `anchors` (overlaps removed afterwards) or `end_to_end` (the head's own
    choice). runtime: what ran the network, with version and device. class_mapping: the model's
    class -> the data set's, where they are spelt or ordered differently. precision: of the network.
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


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything found in I pictures, D detections, and everything that is there, T cones.

    class_names: in the order of the class indices below. image_names: relative to the split,
    sorted, each once. image_size_px: (I, 2) int64, width and height of each picture.
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
        shapes = {
            'image_size_px': (images, 2),
            'detection_image': (found,),
            'detection_class': (found,),
            'detection_box_px': (found, 4),
            'detection_match': (found, len(IOU_THRESHOLDS)),
            'detection_overlaps': (found,),
            'truth_class': (truths,),
            'truth_box_px': (truths, 4),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f'{name} must be {shape}, got {getattr(self, name).shape}')
        limits = {
            'detection_image': (0, images),
            'detection_class': (0, len(self.class_names)),
            'detection_match': (-1, truths),
            'detection_overlaps': (-1, truths),
            'truth_image': (0, images),
            'truth_class': (0, len(self.class_names)),
        }
        for name, (least, end) in limits.items():
            values = getattr(self, name)
            if values.size and not least <= values.min() <= values.max() < end:
                raise ValueError(
                    f'{name} must lie in {least}..{end - 1}, got {values.min()}..{values.max()}'
                )
        if list(self.image_names) != sorted(set(self.image_names)):
            raise ValueError('image_names must be sorted, each once')

    @property
    def truth_count(self) -> int:
        return len(self.truth_image)

    @property
    def correct(self) -> Bool:
        """(D, 10) bool: right at each of IOU_THRESHOLDS."""
        right: Bool = self.detection_match >= 0
        return right

    @property
    def detection_height_px(self) -> Float64:
        """(D,) float64: of the box, at REFERENCE_WIDTH_PX."""
        return self._height_px(self.detection_box_px, self.detection_image)

    @property
    def truth_height_px(self) -> Float64:
        """(T,) float64: of the box, at REFERENCE_WIDTH_PX."""
        return self._height_px(self.truth_box_px, self.truth_image)

    def _height_px(self, box_px: Float32, image: Int64) -> Float64:
        scale = REFERENCE_WIDTH_PX / self.image_size_px[image, 0]
        height: Float64 = (box_px[:, 3] - box_px[:, 1]) * scale
        return height

    def groups(self, block: int = 1) -> tuple[Int64, str]:
        """(I,) int64 group of each picture, and a line on what a group is. See group_images."""
        return group_images(self.image_names, block)

    def save(
        self,
        folder: Path,
        confidence: float = FIXED_CONFIDENCE,
        coco: Mapping[str, Any] | None = None,
    ) -> None:
        """Write evaluation.npz, and evaluation.json with the figures. Raises OutputError.

        coco: what coco.CocoComparison.as_json says, for the report.
        """
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays = {
            name: array.astype(np.int32) if array.dtype == np.int64 else array
            for name, array in arrays.items()
        }
        facts = {
            'schema': SCHEMA,
            'origin': asdict(self.origin),
            'class_names': self.class_names,
            'images': len(self.image_names),
            'truths': self.truth_count,
            'detections': len(self.detection_score),
            'figures': metrics(self, confidence=confidence).as_json(),
            'coco': coco,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ARRAYS_FILE).open('wb') as stream:
                np.savez_compressed(
                    stream,
                    class_names=np.array(self.class_names, np.str_),
                    image_names=np.array(self.image_names, np.str_),
                    **arrays,
                )
            (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2) + '\n', encoding='utf-8')
        except OSError as error:
            raise OutputError(f'{folder} cannot take the evaluation: {error}') from error

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Read what `save` wrote. Raises SourceError."""
        try:
            facts = json.loads((folder / FACTS_FILE).read_text(encoding='utf-8'))
            if facts['schema'] != SCHEMA:
                raise ValueError(f'schema {facts["schema"]} is not {SCHEMA}')
            raw = {name: facts['origin'][name] for name in (f.name for f in fields(Origin))}
            raw |= {'imgsz': tuple(raw['imgsz']), 'notes': tuple(raw['notes'])}
            with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
                return cls(
                    origin=Origin(**raw),
                    class_names=tuple(arrays['class_names'].tolist()),
                    image_names=tuple(arrays['image_names'].tolist()),
                    **{
                        name: arrays[name].astype(np.int64)
                        if arrays[name].dtype.kind == 'i'
                        else arrays[name]
                        for name in ARRAYS
                    },
                )
        except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise SourceError(
                f'{folder} holds no evaluation that can be read ({error}). '
                'Make it again with `cone-training evaluate ... --out`.'
            ) from error


ARRAYS = tuple(
    f.name for f in fields(Evaluation) if f.name not in ('origin', 'class_names', 'image_names')
)


@dataclass(frozen=True, slots=True, eq=False)
class RankedClass:
    """One class, ready for average precision under any multiplicities of the pictures.

    image: (N,) int64, score: (N,) float32, best first, of its detections.
    correct: (N, 10) bool, counted: (N, 10) bool, at each of IOU_THRESHOLDS; what is not counted is
    neither right nor wrong. truths: (I,) int64, cones of the class in each picture.
    """

    image: Int64
    score: Float32
    correct: Bool
    counted: Bool
    truths: Int64


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Precision and recall at IoU 0.5 above a confidence, mean over the classes with truth."""

    confidence: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Figures of one class. NaN where it has no truth.

    precision, recall: at the model's best-F1 confidence. found, correct: detections above the
    fixed confidence, and those of them that are right; fixed_precision, fixed_recall: their
    shares (precision 0 where nothing is found).
    """

    truths: float
    ap50: float
    ap50_95: float
    precision: float
    recall: float
    found: float
    correct: float
    fixed_precision: float
    fixed_recall: float


@dataclass(frozen=True, slots=True)
class BandMetrics:
    """Figures of the cones whose height is in [low_px, high_px) at REFERENCE_WIDTH_PX.

    A detection of a cone outside does not count, nor does one of no cone whose own height is
    outside. precision, recall: at the fixed confidence. Means over the classes with truth.
    """

    low_px: float
    high_px: float
    truths: float
    map50: float
    map50_95: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of a model, 0..1. Means over the classes with truth; NaN without any.

    best_f1: where the model's own smoothed mean F1 is best, as Ultralytics reports it.
    fixed: at one confidence, so that models are judged at the same point.
    """

    images: float
    truths: float
    map50: float
    map50_95: float
    best_f1: OperatingPoint
    fixed: OperatingPoint
    per_class: Mapping[str, ClassMetrics]
    bands: tuple[BandMetrics, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON has it: None for what is not a finite number."""
        cleaned: dict[str, Any] = _finite(asdict(self))
        return cleaned


def metrics(
    evaluation: Evaluation,
    weights: npt.ArrayLike | None = None,
    *,
    confidence: float = FIXED_CONFIDENCE,
    bands_px: Sequence[tuple[float, float]] = HEIGHT_BANDS_PX,
) -> Metrics:
    """All figures, each picture counted as often as `weights`, (I,), says; None: once.

    Equal to what Ultralytics 8.4 makes of the same detections.
    """
    images = len(evaluation.image_names)
    weight = np.ones(images) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != (images,):
        raise ValueError(f'weights must be ({images},), got {weight.shape}')
    ranked = rank(evaluation)
    truths = np.array([each.truths @ weight for each in ranked])
    judged = truths > 0
    ap = np.array([average_precisions(each, weight) for each in ranked])
    curves = np.array([confidence_curves(each, weight) for each in ranked])
    at = best_f1(curves[judged])
    own = curves[:, :, at]
    found, correct = np.array([counts(each, weight, confidence) for each in ranked]).T
    fixed_precision, fixed_recall = _shares(found, correct, truths)
    own[~judged], ap[~judged] = np.nan, np.nan
    return Metrics(
        images=float(weight.sum()),
        truths=float(truths.sum()),
        map50=mean(ap[judged, 0]),
        map50_95=mean(ap[judged].mean(axis=1)),
        best_f1=OperatingPoint(
            float(CONFIDENCE_POINTS[at]), mean(own[judged, 0]), mean(own[judged, 1])
        ),
        fixed=OperatingPoint(confidence, mean(fixed_precision[judged]), mean(fixed_recall[judged])),
        per_class={
            name: ClassMetrics(
                *map(
                    float,
                    (
                        truths[c],
                        ap[c, 0],
                        ap[c].mean(),
                        *own[c],
                        found[c],
                        correct[c],
                        fixed_precision[c],
                        fixed_recall[c],
                    ),
                )
            )
            for c, name in enumerate(evaluation.class_names)
        },
        bands=tuple(_band(evaluation, weight, confidence, low, high) for low, high in bands_px),
    )


def rank(
    evaluation: Evaluation, low_px: float = 0.0, high_px: float = math.inf
) -> tuple[RankedClass, ...]:
    """Each class's detections, best score first; equal scores in the order of the pictures.

    low_px, high_px: as BandMetrics has them; by default all counts.
    """
    correct = evaluation.correct
    wanted = _within(evaluation.truth_height_px, low_px, high_px)
    counted = np.ones_like(correct)
    if low_px > 0 or high_px < math.inf:
        own = _within(evaluation.detection_height_px, low_px, high_px)
        counted = np.where(
            correct, np.append(wanted, False)[evaluation.detection_match], own[:, None]
        )
    order = np.argsort(-evaluation.detection_score, kind='stable')
    result = []
    for c in range(len(evaluation.class_names)):
        own_order = order[evaluation.detection_class[order] == c]
        truth_image = evaluation.truth_image[(evaluation.truth_class == c) & wanted]
        result.append(
            RankedClass(
                evaluation.detection_image[own_order],
                evaluation.detection_score[own_order],
                (correct & counted)[own_order],
                counted[own_order],
                np.bincount(truth_image, minlength=len(evaluation.image_names)).astype(np.int64),
            )
        )
    return tuple(result)


def average_precisions(ranked: RankedClass, weight: Float64) -> Float64:
    """(10,) average precision at each of IOU_THRESHOLDS. weight: (I,) of the pictures."""
    truths = float(ranked.truths @ weight)
    each = weight[ranked.image]
    return np.array(
        [
            average_precision(each * counted, correct, truths)
            for counted, correct in zip(ranked.counted.T, ranked.correct.T, strict=True)
        ]
    )


def average_precision(weight: Float64, correct: Bool, truths: float) -> float:
    """Area under the envelope of precision over recall, read at 101 recalls.

    weight: (N,) of each detection, best score first. correct: (N,) bool. truths: their weight.

    At a recall x the envelope is the best precision beyond x: that of the detections which reach
    more than x. The area is the trapezoids' between the 101 points, so a perfect model has 0.995:
    Ultralytics' curve ends at 0 (ultralytics/utils/metrics.py, compute_ap). COCO takes the mean of
    the points instead, and the precision at or beyond each.
    """
    at = np.flatnonzero(correct & (weight > 0))
    if not len(at) or truths <= 0:
        return 0.0
    hits = np.cumsum(weight[at])
    precision = hits / np.cumsum(weight)[at]
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    height = envelope[np.searchsorted(hits / truths, RECALL_POINTS, side='right')]
    return float((height[:-1] + height[1:]).sum() / 2 / (len(RECALL_POINTS) - 1))


def confidence_curves(ranked: RankedClass, weight: Float64) -> Float64:
    """(2, 1000) precision and recall at IoU 0.5 at each of CONFIDENCE_POINTS.

    Between two scores interpolated linearly; above the best score precision is 1 and recall 0; all
    0 for a class without detections or truth (Ultralytics).
    """
    each = weight[ranked.image]
    drawn = (each > 0) & ranked.counted[:, 0]
    truths = float(ranked.truths @ weight)
    if not drawn.any() or truths <= 0:
        return np.zeros((2, len(CONFIDENCE_POINTS)))
    each, score = each[drawn], ranked.score[drawn]
    hits = np.cumsum(each * ranked.correct[drawn, 0])
    return np.stack(
        [
            np.interp(-CONFIDENCE_POINTS, -score, hits / np.cumsum(each), left=1),
            np.interp(-CONFIDENCE_POINTS, -score, hits / truths, left=0),
        ]
    )


def best_f1(curves: Float64) -> int:
    """Index into CONFIDENCE_POINTS where the smoothed F1, mean over the classes, is best.

    curves: (classes, 2, 1000) precision and recall, classes with truth only.
    """
    if not len(curves):
        return 0
    precision, recall = curves[:, 0], curves[:, 1]
    f1 = (2 * precision * recall / (precision + recall + 1e-16)).mean(axis=0)
    padded = np.pad(f1, SMOOTHING_POINTS // 2, mode='edge')
    box = np.ones(SMOOTHING_POINTS) / SMOOTHING_POINTS
    return int(np.convolve(padded, box, mode='valid').argmax())


def counts(ranked: RankedClass, weight: Float64, confidence: float) -> tuple[float, float]:
    """Detections of at least this confidence, and those of them that are right at IoU 0.5."""
    each = weight[ranked.image] * ranked.counted[:, 0] * (ranked.score >= confidence)
    return float(each.sum()), float(each @ ranked.correct[:, 0])


def confusion(evaluation: Evaluation, confidence: float = FIXED_CONFIDENCE) -> Int64:
    """(classes + 1, classes + 1) int64: rows what was found, columns what is there.

    Detections of at least this confidence are matched at IoU 0.5 whatever their class, best score
    first. The last row counts cones that were missed, the last column what is not there.
    """
    background = len(evaluation.class_names)
    kept = evaluation.detection_score >= confidence
    met = evaluation.detection_overlaps[kept]
    there = np.append(evaluation.truth_class, background)[met]
    missed = np.delete(evaluation.truth_class, met[met >= 0])
    matrix = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(matrix, (evaluation.detection_class[kept], there), 1)
    np.add.at(matrix, (np.full(len(missed), background), missed), 1)
    return matrix


def errors_per_image(
    evaluation: Evaluation, confidence: float = FIXED_CONFIDENCE
) -> tuple[Int64, Int64]:
    """(I,) int64 each: cones missed and detections that are wrong at IoU 0.5."""
    images = len(evaluation.image_names)
    kept = evaluation.detection_score >= confidence
    match = evaluation.detection_match[kept, 0]
    wrong = evaluation.detection_image[kept][match < 0]
    missed = np.delete(evaluation.truth_image, match[match >= 0])
    return (
        np.bincount(missed, minlength=images).astype(np.int64),
        np.bincount(wrong, minlength=images).astype(np.int64),
    )


def match(
    found_box: Float32, found_class: Int64, truth_box: Float32, truth_class: Int64
) -> tuple[Int64, Int64]:
    """Which cone each detection of one picture is: (N, 10) by class and IoU, (N,) of any class.

    found_box: (N, 4), best score first. truth_box: (M, 4), in the same pixels. -1: none.
    At each of IOU_THRESHOLDS each takes the free cone of its class that it overlaps most, if by so
    much (ultralytics/engine/validator.py, match_predictions). Any class: the same at 0.5.
    """
    overlap = box_iou(found_box, truth_box)
    same = np.where(found_class[:, None] == truth_class[None], overlap, np.float32(0))
    return _assign(same, IOU_THRESHOLDS), _assign(overlap, IOU_THRESHOLDS[:1])[:, 0]


def box_iou(a: Float32, b: Float32) -> Float32:
    """(N, M) float32 intersection over union of (N, 4) and (M, 4) boxes.

    The union is 1e-7 larger, in float32, as Ultralytics has it, so that no overlap at a
    threshold's very edge falls on the other side.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.clip(high - low, 0, None)
    intersection = side[..., 0] * side[..., 1]
    size_a, size_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    area_a, area_b = size_a[:, 0] * size_a[:, 1], size_b[:, 0] * size_b[:, 1]
    union = area_a[:, None] + area_b[None] - intersection + np.float32(1e-7)
    overlap: Float32 = (intersection / union).astype(np.float32)
    return overlap


def _assign(overlap: Float32, thresholds: Float32) -> Int64:
    """(N, thresholds) int64: greedy assignment of columns to rows, row by row."""
    assigned = np.full((len(overlap), len(thresholds)), -1, np.int64)
    if not overlap.size:
        return assigned
    free = np.ones((len(thresholds), overlap.shape[1]), bool)
    level = np.arange(len(thresholds))
    for row in np.flatnonzero(overlap.max(axis=1) >= thresholds[0]):
        open_to_it = np.where(free, overlap[row], 0)
        best = open_to_it.argmax(axis=1)
        enough = open_to_it[level, best] >= thresholds
        assigned[row, enough] = best[enough]
        free[level[enough], best[enough]] = False
    return assigned


def group_images(names: Sequence[str], block: int = 1) -> tuple[Int64, str]:
    """(I,) int64 group of each picture, and a line on what a group is.

    A drive, where the file name begins with one (`autox2_17.jpg`); else `block` consecutive file
    numbers of one series (`amz_00053j.jpg`); else, and with block 1, the picture itself.
    """
    labels: list[tuple[str, str, int]] = []
    for name in names:
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


def mean(values: Float64) -> float:
    """NaN of nothing, without a warning."""
    return float(np.mean(values)) if len(values) else math.nan


def _within(height_px: Float64, low_px: float, high_px: float) -> Bool:
    inside: Bool = (height_px >= low_px) & (height_px < high_px)
    return inside


def _shares(found: Float64, correct: Float64, truths: Float64) -> tuple[Float64, Float64]:
    """Precision, 0 where nothing was found, and recall, NaN without truth."""
    precision = np.where(truths > 0, correct / np.where(found > 0, found, 1), np.nan)
    recall = np.where(truths > 0, correct / np.where(truths > 0, truths, 1), np.nan)
    return precision, recall


def _band(
    evaluation: Evaluation, weight: Float64, confidence: float, low_px: float, high_px: float
) -> BandMetrics:
    ranked = [each for each in rank(evaluation, low_px, high_px) if float(each.truths @ weight) > 0]
    truths = np.array([each.truths @ weight for each in ranked])
    ap = np.array([average_precisions(each, weight) for each in ranked]).reshape(-1, 10)
    found, correct = (
        np.array([counts(each, weight, confidence) for each in ranked]).reshape(-1, 2).T
    )
    precision, recall = _shares(found, correct, truths)
    return BandMetrics(
        low_px,
        high_px,
        float(truths.sum()),
        mean(ap[:, 0]),
        mean(ap.mean(axis=1)),
        mean(precision),
        mean(recall),
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
