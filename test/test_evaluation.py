"""The figures of an evaluation: by hand, against Ultralytics, and kept on disk."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cone_perception.accuracy.matching import match
from cone_perception.errors import SourceError
from cone_perception.files import without_nan
from training.judging.evaluation import (
    ARRAYS,
    ARRAYS_FILE,
    FACTS_FILE,
    Evaluation,
    Origin,
    load_evaluation,
    save_evaluation,
)
from training.judging.metrics import OperatingPoint, confusion, find_mistakes, metrics

NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')
ORIGIN = Origin('w.pt', '0' * 64, 'data', '1' * 64, 'test', (640, 640), 'anchors', 'none')


def arrays(rows):
    """Classes, boxes and scores of rows (class, score, box); no scores of rows (class, box)."""
    return (
        np.array([row[0] for row in rows], np.int64),
        np.array([row[-1] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows if len(row) == 3], np.float32),
    )


def best_first(found):
    return sorted(found, key=lambda each: -each[1])


def evaluate_boxes(pictures, names=NAMES, width_px=1280, image_names=None):
    """Evaluation of pictures [(found [(class, score, box)], truth [(class, box)])]."""
    founds, truths, first = [], [], 0
    for index, (found, truth) in enumerate(pictures):
        found_class, found_box, score = arrays(best_first(found))
        truth_class, truth_box, _ = arrays(truth)
        matched = match(found_box, found_class, truth_box, truth_class)
        cone, overlaps = (np.where(each < 0, -1, each + first) for each in matched)
        image = np.full(len(found), index)
        founds.append((image, found_class, score, found_box, cone, overlaps))
        truths.append((np.full(len(truth), index), truth_class, truth_box))
        first += len(truth)
    count = len(pictures)
    return Evaluation(
        ORIGIN,
        tuple(names),
        tuple(image_names or (f'{i:04d}.jpg' for i in range(count))),
        np.tile(np.array([[width_px, 720]], np.int64), (count, 1)),
        np.where(np.arange(count) % 2, 300.5, np.nan),
        *map(np.concatenate, zip(*founds, strict=True)),
        *map(np.concatenate, zip(*truths, strict=True)),
    )


def box(left, top=100, width=50, height=100):
    return (left, top, left + width, top + height)


def random_pictures(seed, count=60, classes=5, never=()):
    """Boxes that are missed, shifted, doubled, of the wrong class, or invented."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        truth, found = [], []
        for _ in range(rng.integers(0, 12)):
            label = int(rng.choice([c for c in range(classes) if c not in never]))
            left, top, width, height = rng.uniform([0, 0, 8, 8], [1000, 500, 120, 200])
            truth.append((label, box(left, top, width, height)))
            for _ in range(rng.integers(0, 3)):
                off = rng.normal(0, 0.08, 4) * [width, height, width, height]
                shown = label if rng.random() < 0.85 else int(rng.integers(classes))
                shifted = box(left + off[0], top + off[1], width + off[2], height + off[3])
                found.append((shown, rng.beta(2, 2), shifted))
        for _ in range(rng.integers(0, 6)):
            left, top = rng.uniform(0, 900, 2)
            found.append((int(rng.integers(classes)), rng.beta(1, 4), box(left, top)))
        pictures.append((found, truth))
    return pictures


def ultralytics_figures(pictures, classes=5):
    """The same boxes through Ultralytics' own matching and metrics."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('ultralytics')
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.metrics import DetMetrics

    matcher = DetectionValidator.__new__(DetectionValidator)
    matcher.iouv = torch.linspace(0.5, 0.95, 10)
    matcher.niou = 10
    judged = DetMetrics(dict(enumerate(NAMES[:classes])))
    for index, (found, truth) in enumerate(pictures):
        found_class, found_box, score = arrays(best_first(found))
        truth_class, truth_box, _ = arrays(truth)
        shown, label = found_class.astype(np.float32), truth_class.astype(np.float32)
        predictions, targets = (
            {'bboxes': torch.tensor(box), 'cls': torch.tensor(class_id)}
            for box, class_id in ((found_box, shown), (truth_box, label))
        )
        judged.update_stats(
            {
                **matcher._process_batch(predictions, targets),
                'target_cls': label,
                'target_img': np.unique(label),
                'conf': score,
                'pred_cls': shown,
                'im_name': str(index),
            }
        )
    judged.process()
    return judged


@pytest.mark.parametrize(
    'seed, never, unfound', [(0, (), ()), (1, (3,), ()), (2, (0, 1), ()), (3, (), (2,))]
)
def test_figures_equal_ultralytics_on_the_same_boxes(seed, never, unfound):
    pictures = [
        ([each for each in found if each[0] not in unfound], truth)
        for found, truth in random_pictures(seed, never=never)
    ]
    theirs = ultralytics_figures(pictures)
    ours = metrics(evaluate_boxes(pictures))
    overall = (ours.best_f1.precision, ours.best_f1.recall, ours.map50, ours.map50_95)
    assert overall == pytest.approx(theirs.mean_results(), abs=1e-9)
    assert {NAMES[c] for c in theirs.ap_class_index} == {
        name for name, each in ours.per_class.items() if each.truths
    }
    for row, c in enumerate(theirs.ap_class_index):
        each = ours.per_class[NAMES[c]]
        own = (each.precision, each.recall, each.ap50, each.ap50_95)
        assert own == pytest.approx(theirs.class_result(row), abs=1e-9)
    assert all(ours.per_class[NAMES[c]].ap50 == 0 for c in unfound)


def test_weights_count_a_picture_as_often_as_they_say():
    pictures = random_pictures(4, count=20)
    times = np.random.default_rng(0).integers(0, 4, len(pictures))
    repeated = [each for each, n in zip(pictures, times, strict=True) for _ in range(n)]
    weighted = metrics(evaluate_boxes(pictures), times)
    plain = metrics(evaluate_boxes(repeated))
    assert weighted.truths == plain.truths
    assert weighted.map50 == pytest.approx(plain.map50, abs=1e-12)
    assert weighted.map50_95 == pytest.approx(plain.map50_95, abs=1e-12)
    assert weighted.fixed.precision == pytest.approx(plain.fixed.precision, abs=1e-12)
    assert weighted.fixed.recall == pytest.approx(plain.fixed.recall, abs=1e-12)
    for name, band in enumerate(weighted.bands):
        assert band.map50 == pytest.approx(plain.bands[name].map50, abs=1e-12, nan_ok=True)


def test_perfect_model_has_what_ultralytics_calls_perfect():
    figures = metrics(evaluate_boxes([([(0, 0.9, box(10))], [(0, box(10))])]))
    assert (figures.map50, figures.map50_95) == pytest.approx((0.995, 0.995))
    assert figures.fixed == OperatingPoint(0.25, 1.0, 1.0)


def test_half_of_the_cones_found_before_a_false_one():
    pictures = [([(0, 0.9, box(10)), (0, 0.8, box(600))], [(0, box(10)), (0, box(300))])]
    figures = metrics(evaluate_boxes(pictures), confidence=0.5)
    # Precision 1 at recalls 0, 0.01, ... 0.49, and 0 from 0.5 on: 49 trapezoids and a half.
    assert figures.map50 == pytest.approx(0.495)
    blue = figures.per_class['blue_cone']
    assert (blue.truths, blue.found, blue.correct) == (2, 2, 1)
    assert (blue.fixed_precision, blue.fixed_recall) == (0.5, 0.5)


def test_each_class_has_a_threshold_of_its_own():
    found = [(0, 0.9, box(10)), (0, 0.5, box(600)), (4, 0.5, box(300))]
    judged = evaluate_boxes([(found, [(0, box(10)), (4, box(300))])])
    least = {**dict.fromkeys(NAMES, 0.6), 'yellow_cone': 0.4}
    figures = metrics(judged, confidence=least)
    assert figures.per_class['blue_cone'].found == figures.per_class['yellow_cone'].found == 1
    assert (figures.fixed.precision, figures.alike.recall) == (1, 1)
    assert confusion(judged, least).sum() == 2
    assert metrics(judged, confidence=0.6).fixed.recall == 0.5


def test_false_detection_with_the_best_score_halves_the_precision():
    pictures = [([(0, 0.9, box(600)), (0, 0.8, box(10))], [(0, box(10))])]
    assert metrics(evaluate_boxes(pictures)).map50 == pytest.approx(0.995 / 2)


def test_second_detection_of_a_cone_is_wrong_and_the_overlap_decides_the_levels():
    found = [(0, 0.9, box(10, width=36)), (0, 0.8, box(10))]
    result = evaluate_boxes([(found, [(0, box(10))])])
    # 36 of 50 px: IoU 0.72 takes the cone up to 0.7, the exact box from 0.75 on.
    correct = result.detection_match >= 0
    assert correct[0].tolist() == [True] * 5 + [False] * 5
    assert (correct[0] ^ correct[1]).all()


def test_nothing_there_and_nothing_found():
    nothing = evaluate_boxes([([], []), ([], [])])
    figures = metrics(nothing)
    assert math.isnan(figures.map50)
    assert math.isnan(figures.best_f1.precision)
    assert without_nan(figures)['map50'] is None
    assert confusion(nothing).sum() == 0


def test_cones_and_no_detections_are_all_missed():
    figures = metrics(evaluate_boxes([([], [(0, box(10)), (4, box(90))]), ([], [])]))
    assert (figures.map50, figures.best_f1.recall, figures.fixed.recall) == (0, 0, 0)
    assert math.isnan(figures.per_class['orange_cone'].ap50)


def test_class_without_truth_does_not_count_in_the_mean_but_its_detections_are_listed():
    pictures = [([(0, 0.9, box(10)), (2, 0.9, box(400))], [(0, box(10))])]
    figures = metrics(evaluate_boxes(pictures))
    assert figures.map50 == pytest.approx(0.995)
    assert figures.per_class['orange_cone'].found == 1


def test_bands_leave_out_the_detections_of_cones_outside():
    near, far = box(10, height=100), box(400, height=10)
    found = [(0, 0.9, near), (0, 0.8, far), (0, 0.7, box(800, height=11))]
    figures = metrics(evaluate_boxes([(found, [(0, near), (0, far)])]))
    first, last = figures.bands[0], figures.bands[-1]
    assert (first.low_px, first.high_px, first.truths, last.truths) == (0, 12, 1, 1)
    assert first.fixed.precision == first.alike.precision == 0.5
    assert last.fixed.precision == 1.0
    assert last.map50 == pytest.approx(0.995)


def test_heights_are_those_at_a_width_of_1280():
    half = evaluate_boxes([([(0, 0.9, box(10))], [(0, box(10))])], width_px=640)
    assert half.matches.truth_height_px.tolist() == half.matches.height_px.tolist() == [200]


def test_confusion_counts_found_for_another_class_missed_and_invented():
    found = [(4, 0.9, box(10)), (0, 0.8, box(300)), (0, 0.1, box(600))]
    truth = [(0, box(10)), (0, box(600))]
    matrix = confusion(evaluate_boxes([(found, truth)]))
    assert matrix[4, 0] == 1
    assert matrix[0, 5] == 1
    assert matrix[5, 0] == 1
    assert matrix.sum() == 3


def test_mistakes_are_what_is_missed_and_what_is_wrong():
    pictures = [
        ([(4, 0.9, box(10)), (0, 0.1, box(600))], [(0, box(10)), (0, box(600))]),
        ([(0, 0.9, box(10))], [(0, box(10))]),
    ]
    missed, wrong = find_mistakes(evaluate_boxes(pictures))
    assert (missed.tolist(), wrong.tolist()) == ([True, True, False], [True, False, False])


def test_saved_evaluation_is_the_same_when_loaded(tmp_path):
    saved = evaluate_boxes(random_pictures(5, count=8))
    save_evaluation(saved, tmp_path / 'kept', metrics(saved))
    loaded = load_evaluation(tmp_path / 'kept')
    assert loaded.origin == saved.origin
    assert (loaded.class_names, loaded.image_names) == (saved.class_names, saved.image_names)
    for name in ARRAYS:
        assert getattr(loaded, name).dtype == getattr(saved, name).dtype
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    facts = json.loads((tmp_path / 'kept' / 'evaluation.json').read_text())
    assert facts['figures'] == without_nan(metrics(saved))


def test_evaluation_without_pictures_of_a_kind_survives_the_disk(tmp_path):
    save_evaluation(evaluate_boxes([([], [])]), tmp_path, {})
    assert len(load_evaluation(tmp_path).detection_score) == 0


@pytest.mark.parametrize('damage', ['cut', 'missing', 'other'])
def test_damaged_evaluation_is_refused_by_name(tmp_path, damage):
    save_evaluation(evaluate_boxes(random_pictures(6, count=4)), tmp_path, {})
    arrays = tmp_path / ARRAYS_FILE
    if damage == 'cut':
        arrays.write_bytes(arrays.read_bytes()[:200])
    elif damage == 'missing':
        arrays.unlink()
    else:
        facts = json.loads((tmp_path / FACTS_FILE).read_text())
        (tmp_path / FACTS_FILE).write_text(json.dumps(facts | {'schema': 7}))
    with pytest.raises(SourceError, match='holds no evaluation'):
        load_evaluation(tmp_path)


def test_indices_that_lead_nowhere_are_refused():
    with pytest.raises(ValueError, match='detection_class must lie in'):
        evaluate_boxes([([(7, 0.9, box(10))], [])])


@pytest.mark.parametrize(
    'names, block, groups, kind',
    [
        (['amz_00053j.jpg', 'amz_00054j.jpg'], 1, [0, 1], 'picture'),
        (['amz_00053j.jpg', 'amz_00059j.jpg', 'amz_00060j.jpg'], 10, [0, 0, 1], 'block of 10'),
        (['amz_00053j.jpg', 'amz_00054p.jpg'], 10, [0, 1], 'block of 10'),
        (['amz_00053_jpg.rf.0a1b.jpg', 'amz_00054_jpg.rf.9f8e.jpg'], 10, [0, 0], 'block of 10'),
        (['autox2_1.jpg', 'autox2_99.jpg', 'autox5_1.jpg'], 1, [0, 0, 1], 'drive'),
        (['start.jpg', 'stop.jpg'], 10, [0, 1], 'picture'),
    ],
)
def test_pictures_of_one_drive_or_block_are_one_group(names, block, groups, kind):
    judged = evaluate_boxes([([], [])] * len(names), image_names=names)
    index, described = judged.groups(block)
    assert index.tolist() == groups
    assert described.startswith(kind)
