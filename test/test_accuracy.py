import contextlib
import io

import numpy as np
import pytest

from cone_perception.accuracy.average_precision import RECALL_POINTS, band_name, map50, rank
from cone_perception.accuracy.intervals import resampled
from cone_perception.accuracy.matching import Matches, box_iou, match_detections
from cone_perception.types import Detections


def boxes(*rows):
    """Detections from (left, top, right, bottom, score, class)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


A = (0, 0, 10, 30)
B = (50, 0, 60, 30)
SMALL = (80, 0, 84, 10)


def test_iou_of_half_overlapping_boxes():
    a, b = (
        np.array([[0, 0, 10, 10]], np.float32),
        np.array([[5, 0, 15, 10], [20, 0, 30, 10]], np.float32),
    )
    np.testing.assert_allclose(box_iou(a, b), [[1 / 3, 0]], atol=1e-6)


def test_iou_of_boxes_without_area_is_zero():
    point = np.array([[5, 5, 5, 5]], np.float32)
    assert box_iou(point, point)[0, 0] == 0


def accuracy_of(*pairs, classes=1, low_px=0.0):
    """Cones, detections from 0.5 up, right ones, (classes, 3); AP50 of each class."""
    once = np.ones((1, len(pairs)), np.int32)
    ranked = rank(Matches.of(pairs, classes), low_px)
    counts = np.array([each.counts(once, 0.5)[:, 0] for each in ranked])
    return counts.tolist(), [each.average_precisions(once)[0, 0] for each in ranked]


def test_second_detection_of_one_cone_is_wrong():
    found = boxes((*A, 0.8, 0), (*A, 0.9, 0))
    assert match_detections(found, boxes((*A, 1, 0))).tolist() == [-1, 0]


def test_right_place_with_wrong_class_is_wrong():
    counts, _ = accuracy_of((boxes((*A, 0.9, 1)), boxes((*A, 1, 0))), classes=2)
    assert counts == [[1, 0, 0], [0, 1, 0]]


def test_cone_too_small_to_count_neither_helps_nor_harms():
    found = boxes((*A, 0.9, 0), (*SMALL, 0.8, 0), (*(200, 0, 204, 10), 0.7, 0))
    counts, _ = accuracy_of((found, boxes((*A, 1, 0), (*SMALL, 1, 0))), low_px=24)
    assert counts == [[1, 1, 1]]
    assert band_name(24, np.inf) == 'from 24 px'


def test_large_box_over_nothing_counts_as_wrong():
    counts, _ = accuracy_of((boxes((*B, 0.9, 0)), boxes((*A, 1, 0))), low_px=24)
    assert counts == [[1, 1, 0]]


def test_precision_and_recall_by_hand():
    # Class 0: two cones, one found, one wrong above the threshold, one wrong below it.
    found = boxes((*A, 0.9, 0), (100, 0, 110, 30, 0.8, 0), (150, 0, 160, 30, 0.2, 0))
    counts, ap50 = accuracy_of((found, boxes((*A, 1, 0), (*B, 1, 0))), classes=2)
    assert counts == [[2, 2, 1], [0, 0, 0]]
    assert ap50[0] == pytest.approx(0.495)  # precision 1 up to recall 0.5, nothing beyond
    assert np.isnan(ap50[1])
    assert band_name(0, np.inf) == 'all boxes'


def test_nothing_found_is_zero_and_nothing_there_is_not_a_number():
    assert accuracy_of((boxes(), boxes((*A, 1, 0)))) == ([[1, 0, 0]], [0])
    assert np.isnan(accuracy_of((boxes(), boxes()))[1])
    assert np.isnan(accuracy_of()[1])


def random_pictures(seed, count=30):
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        n = int(rng.integers(0, 12))
        corner = rng.uniform(0, 900, (n, 2))
        truth = np.column_stack(
            [corner, corner + rng.uniform(8, 90, (n, 2)), np.ones(n), rng.integers(0, 3, n)]
        )
        found = truth[rng.random(n) < 0.8].copy()
        found[:, :4] += rng.normal(0, 3, found[:, :4].shape)
        wrong = truth[rng.random(n) < 0.3].copy()
        wrong[:, 5] = rng.integers(0, 3, len(wrong))
        found = np.concatenate([found, wrong])
        found[:, 4] = rng.random(len(found))
        pictures.append((boxes(*found), boxes(*truth)))
    return pictures


@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('min_height_px', [0, 32])
def test_average_precision_equals_the_coco_evaluators(seed, min_height_px):
    coco = pytest.importorskip('faster_coco_eval', reason='the dev extra is not installed')
    pictures = random_pictures(seed)
    names = ['a', 'b', 'c']

    def entries(which):
        for image, picture in enumerate(pictures):
            for box, score, category in zip(
                picture[which].xyxy_px, picture[which].score, picture[which].class_id, strict=True
            ):
                left, top, right, bottom = map(float, box)
                height = bottom - top
                yield {
                    'image_id': image,
                    'category_id': int(category),
                    'bbox': [left, top, right - left, height],
                    'area': height,  # the evaluator ignores by area: give it heights
                    'iscrowd': 0,
                    'score': float(score),
                }

    truth = [dict(entry, id=i + 1) for i, entry in enumerate(entries(1))]
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO(
            {
                'images': [{'id': i, 'width': 1000, 'height': 1000} for i in range(len(pictures))],
                'categories': [{'id': i, 'name': n} for i, n in enumerate(names)],
                'annotations': truth,
            }
        )
        dt = gt.loadRes(list(entries(0)))
        for annotation in dt.anns.values():
            annotation['area'] = annotation['bbox'][3]
        evaluator = coco.COCOeval_faster(gt, dt, 'bbox')
        evaluator.params.iouThrs = np.array([0.5])
        evaluator.params.areaRng = [[min_height_px, 1e9]]
        evaluator.params.areaRngLbl = ['all']
        evaluator.params.maxDets = [1, 10, 1000]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval['precision'][0, :, :, 0, -1]
    theirs = precision.mean(axis=0)
    ranked = rank(Matches.of(pictures, 3), min_height_px)
    np.testing.assert_allclose([coco_average_precision(r) for r in ranked], theirs, atol=1e-3)


def coco_average_precision(ranked):
    """Mean over 101 recalls of the best precision at or beyond each (Lin et al. 2014, cocoeval).

    Ours takes the trapezoids of what lies beyond each: the interpolation is all that differs.
    """
    hits = np.cumsum(ranked.correct[ranked.counted[:, 0], 0])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    reached = np.searchsorted(hits / ranked.truths.sum(), RECALL_POINTS, side='left')
    return envelope[reached].mean()


def test_perfect_model_has_1_by_the_interpolation_of_coco_and_0_995_by_ours():
    pair = (boxes((*A, 0.9, 0)), boxes((*A, 1, 0)))
    assert coco_average_precision(rank(Matches.of([pair], 1))[0]) == 1
    assert accuracy_of(pair)[1] == pytest.approx([0.995])


def map50_interval(pictures, group):
    ranked = rank(Matches.of(pictures, 3))
    return resampled(lambda weights: map50(ranked, weights), group, 200)


def test_interval_holds_the_value_and_widens_with_blocks_of_alike_pictures():
    pictures = random_pictures(5)
    own = map50_interval(pictures, np.arange(30))
    assert own.value == pytest.approx(np.mean(accuracy_of(*pictures, classes=3)[1]))
    assert own.low < own.value < own.high
    alike = [picture for picture in pictures for _ in range(5)]
    narrow, wide = (map50_interval(alike, np.arange(150) // n) for n in (1, 5))
    assert wide.width > 1.5 * narrow.width
