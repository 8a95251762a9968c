"""The same detections judged as COCO does, and why the figures differ from Ultralytics'."""

from __future__ import annotations

import contextlib
import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cone_perception.errors import InstallError
from training.judging.evaluation import (
    IOU_THRESHOLDS,
    RECALL_POINTS,
    Bool,
    Evaluation,
    mean,
    metrics,
    rank,
)

COCO_MOST_DETECTIONS = 100
"""Per picture and class, in COCO's own headline figures."""


@dataclass(frozen=True, slots=True)
class Step:
    """Figures with one more rule taken from COCO. what: the rule."""

    what: str
    map50: float
    map50_95: float


@dataclass(frozen=True, slots=True)
class CocoComparison:
    """From Ultralytics' figures to COCO's, one rule after the other; the last is COCO's own.

    per_class: class name -> AP50 by Ultralytics' rules and by all of COCO's.
    """

    steps: tuple[Step, ...]
    per_class: dict[str, tuple[float, float]]

    @property
    def difference(self) -> tuple[float, float]:
        """COCO's mAP50 and mAP50-95 less Ultralytics'."""
        first, last = self.steps[0], self.steps[-1]
        return last.map50 - first.map50, last.map50_95 - first.map50_95

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def coco_figures(evaluation: Evaluation) -> CocoComparison:
    """Judge by faster-coco-eval too, and say which rule makes which difference.

    Raises InstallError when faster-coco-eval is missing.
    """
    own = metrics(evaluation, bands_px=())
    most = max(int(np.bincount(evaluation.detection_image).max(initial=0)), 1)
    matched, _ = _faster_coco_eval(evaluation, most)
    limited, per_class = _faster_coco_eval(evaluation, COCO_MOST_DETECTIONS)
    return CocoComparison(
        steps=(
            Step("Ultralytics' rules", own.map50, own.map50_95),
            Step("COCO's interpolation", *_interpolated(evaluation)),
            Step("and COCO's matching", *matched),
            Step(f'and at most {COCO_MOST_DETECTIONS} detections of a class a picture', *limited),
        ),
        per_class={
            name: (figures.ap50, per_class[name])
            for name, figures in own.per_class.items()
            if figures.truths
        },
    )


def coco_average_precision(correct: Bool, truths: float) -> float:
    """Mean over 101 recalls of the best precision at or beyond each (Lin et al. 2014, cocoeval).

    correct: (N,) bool, best score first.
    """
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(hits / truths, RECALL_POINTS, side='left')].mean())


def _interpolated(evaluation: Evaluation) -> tuple[float, float]:
    """mAP50 and mAP50-95 of Ultralytics' matches, interpolated as COCO does."""
    ap = np.array(
        [
            [coco_average_precision(column, float(each.truths.sum())) for column in each.correct.T]
            for each in rank(evaluation)
            if each.truths.any()
        ]
    ).reshape(-1, len(IOU_THRESHOLDS))
    return mean(ap[:, 0]), mean(ap.mean(axis=1))


def _faster_coco_eval(
    evaluation: Evaluation, most: int
) -> tuple[tuple[float, float], dict[str, float]]:
    """mAP50, mAP50-95, and AP50 per class with truth; -1 where there is none."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise InstallError(
            f'faster-coco-eval is not installed ({error}). '
            "Install it with: pip install 'cone_perception[train]'"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(_truth(evaluation))
        judged = COCOeval_faster(truth, truth.loadRes(_detections(evaluation)), 'bbox')
        judged.params.maxDets = [1, 10, most]
        judged.evaluate()
        judged.accumulate()
    # (IoU, recall, class, area, maxDets), all areas, the largest maxDets; -1 without truth.
    precision = np.asarray(judged.eval['precision'])[:, :, :, 0, -1]
    present = (precision > -1).any(axis=(0, 1))
    ap = precision[:, :, present].mean(axis=1)
    per_class = {
        name: float(precision[0, :, index].mean())
        for index, name in enumerate(evaluation.class_names)
    }
    return (mean(ap[0]), mean(ap.mean(axis=0))), per_class


def _truth(evaluation: Evaluation) -> dict[str, Any]:
    """COCO's form of the pictures, the cones and their classes."""
    boxes = _left_top_size(evaluation.truth_box_px)
    return {
        'images': [
            {'id': index, 'file_name': name, 'width': int(width), 'height': int(height)}
            for index, (name, (width, height)) in enumerate(
                zip(evaluation.image_names, evaluation.image_size_px, strict=True)
            )
        ],
        'categories': [
            {'id': index, 'name': name} for index, name in enumerate(evaluation.class_names)
        ],
        'annotations': [
            {
                'id': number,
                'image_id': int(image),
                'category_id': int(class_id),
                'bbox': box,
                'area': box[2] * box[3],
                'iscrowd': 0,
            }
            for number, (image, class_id, box) in enumerate(
                zip(evaluation.truth_image, evaluation.truth_class, boxes, strict=True), 1
            )
        ],
    }


def _detections(evaluation: Evaluation) -> list[dict[str, Any]]:
    boxes = _left_top_size(evaluation.detection_box_px)
    return [
        {'image_id': int(image), 'category_id': int(class_id), 'bbox': box, 'score': float(score)}
        for image, class_id, box, score in zip(
            evaluation.detection_image,
            evaluation.detection_class,
            boxes,
            evaluation.detection_score,
            strict=True,
        )
    ]


def _left_top_size(box_px: np.ndarray[Any, Any]) -> list[list[float]]:
    wide = box_px.astype(np.float64)
    listed: list[list[float]] = np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], 1).tolist()
    return listed
