import contextlib
import io

import numpy as np
import pytest

from cone_perception.accuracy.matching import box_iou, map50_interval, match_picture, summarise
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


def test_second_detection_of_one_cone_is_wrong():
    match = match_picture(boxes((*A, 0.9, 0), (*A, 0.8, 0)), boxes((*A, 1, 0)), 1)
    assert match.correct.tolist() == [True, False]


def test_right_place_with_wrong_class_is_wrong():
    match = match_picture(boxes((*A, 0.9, 1)), boxes((*A, 1, 0)), 2)
    assert match.correct.tolist() == [False]
    assert match.truth_count.tolist() == [1, 0]


def test_cone_too_small_to_count_neither_helps_nor_harms():
    found = boxes((*A, 0.9, 0), (*SMALL, 0.8, 0), (*(200, 0, 204, 10), 0.7, 0))
    match = match_picture(found, boxes((*A, 1, 0), (*SMALL, 1, 0)), 1, min_height_px=24)
    assert match.correct.tolist() == [True]
    assert match.truth_count.tolist() == [1]


def test_large_box_over_nothing_counts_as_wrong():
    match = match_picture(boxes((*B, 0.9, 0)), boxes((*A, 1, 0)), 1, min_height_px=24)
    assert match.correct.tolist() == [False]


def test_precision_and_recall_by_hand():
    # Class 0: two cones, one found, one wrong above the threshold, one wrong below it.
    found = boxes((*A, 0.9, 0), (100, 0, 110, 30, 0.8, 0), (150, 0, 160, 30, 0.2, 0))
    truth = boxes((*A, 1, 0), (*B, 1, 0))
    summary = summarise([match_picture(found, truth, 2)], ['a', 'b'], {'a': 0.5, 'b': 0.5})
    a = summary.per_class['a']
    assert (a.truths, a.found, a.correct) == (2, 2, 1)
    assert (a.precision, a.recall) == (0.5, 0.5)
    assert a.ap50 == pytest.approx(51 / 101)  # precision 1 up to recall 0.5, nothing beyond
    assert np.isnan(summary.per_class['b'].ap50)
    assert summary.overall.ap50 == a.ap50


def test_nothing_found_is_recall_zero_and_nothing_there_is_not_a_number():
    missed = summarise([match_picture(boxes(), boxes((*A, 1, 0)), 1)], ['a'], {'a': 0.5})
    assert missed.overall.recall == 0
    assert missed.overall.ap50 == 0
    assert np.isnan(missed.overall.precision)
    nothing = summarise([match_picture(boxes(), boxes(), 1)], ['a'], {'a': 0.5})
    assert np.isnan(nothing.overall.recall)
    assert np.isnan(summarise([], ['a'], {'a': 0.5}).overall.ap50)


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
    ours = summarise(
        [match_picture(f, t, 3, min_height_px) for f, t in pictures],
        names,
        dict.fromkeys(names, 0.5),
    )

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
    np.testing.assert_allclose([ours.per_class[n].ap50 for n in names], theirs, atol=1e-3)


def test_interval_holds_the_value_and_widens_with_blocks_of_alike_pictures():
    pictures = [match_picture(f, t, 3) for f, t in random_pictures(5)]
    names = ['a', 'b', 'c']
    value = summarise(pictures, names, dict.fromkeys(names, 0.5)).overall.ap50
    low, high = map50_interval(pictures, [0, 1, 2], 3, resamples=200)
    assert low < value < high
    alike = [picture for picture in pictures for _ in range(5)]
    narrow = np.diff(map50_interval(alike, [0, 1, 2], 3, resamples=200))
    wide = np.diff(map50_interval(alike, [0, 1, 2], 3, block=5, resamples=200))
    assert wide > 1.5 * narrow
