"""`cone-training calibrate`: probabilities that are as often right as they say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from browser import ReadPage
from planted_data import painted_row, write_data_yaml, write_split
from tiny_network import CLASS_NAMES, write_tiny_bundle

from cone_perception.classes import ClassCalibration
from cone_perception.errors import DataError
from cone_perception.model_card import read_bundle
from cone_perception.types import Detections
from training.cli import main
from training.export.class_probabilities import BINS, Judged, calibration_error, fit

ONCE = np.ones((1, 10), np.int32)


def judged_by(calibration: ClassCalibration, count: int, seed: int = 3) -> Judged:
    """Detections with any scores, which are what this calibration says of them."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0.02, 0.3, (count, 5)).astype(np.float32)
    best = random.integers(0, 5, count)
    scores[np.arange(count), best] = random.uniform(0.3, 0.9, count)
    boxes = np.zeros((count, 4), np.float32)
    cones = Detections(boxes, scores.max(axis=1), best, class_score=scores)
    up_to = calibration.probabilities(cones, 5).cumsum(axis=1)
    event = (random.random(count)[:, None] > up_to).sum(axis=1)
    return Judged('drawn', cones, event, np.arange(count) % 10, np.arange(10))


def test_error_is_the_mean_gap_of_the_bins():
    """Two levels: of 0.9 are 6 of 10 right, of 0.5 are 5 of 10; half of all lie 0.3 off."""
    probability = np.repeat([0.5, 0.9], 10 * BINS)
    hit = np.tile([True, False], 10 * BINS)
    hit[10 * BINS :] = np.tile(np.arange(10) < 6, BINS)
    image = np.arange(20 * BINS) % 10
    figure = calibration_error(probability, hit, image)
    assert figure(ONCE)[0] == pytest.approx(0.15, abs=0.02)  # the middle bin has some of both
    assert figure(ONCE * 3)[0] == pytest.approx(figure(ONCE)[0])


def test_error_counts_a_picture_as_often_as_it_is_drawn():
    probability, hit = np.full(20, 0.75), np.arange(20) < 10
    image = np.repeat([0, 1], 10)
    figure = calibration_error(probability, hit, image)
    weights = np.array([[1, 1], [2, 0], [0, 2], [0, 0]], np.int32)
    np.testing.assert_allclose(figure(weights), [0.5, 0.25, 0.75, 0], atol=1e-9)


def test_fit_finds_what_the_scores_mean():
    true = ClassCalibration(2.0, 0.5, 0.7)
    found = fit([judged_by(true, 6000)])
    assert found.slope == pytest.approx(2.0, rel=0.15)
    assert found.offset == pytest.approx(0.5, abs=0.15)
    assert found.temperature == pytest.approx(0.7, rel=0.15)
    other = judged_by(true, 6000, seed=4)
    card = replace(read_bundle().card, class_calibration=found)
    assert other.error(card).value < 0.03
    assert other.error(replace(card, class_calibration=None)).value > 0.05


def test_large_set_does_not_outvote_a_small_one():
    few = judged_by(ClassCalibration(1, -1, 1), 400)
    many = judged_by(ClassCalibration(1, 1, 1), 4000)
    middle = fit([few, many]).offset
    assert abs(middle) < 0.5
    assert fit([many]).offset == pytest.approx(1, abs=0.3)


def test_few_detections_tell_nothing():
    with pytest.raises(DataError, match='finds 299 cones in these pictures, and 300 are'):
        fit([judged_by(ClassCalibration(1, 0, 1), 299)])


@pytest.fixture
def data(tmp_path):
    """Blue cells are all found; of ten, seven are labelled blue, two yellow, and one is not."""
    told = ['blue_cone'] * 7 + ['yellow_cone'] * 2 + ['']
    names = CLASS_NAMES[::-1]
    for split in ('val', 'test'):
        rows = []
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(120)
            cells = [(32 * x, 32 * y, 32, 32) for x in range(0, 20, 2) for y in range(12)]
            picture, _ = painted_row([('blue_cone', *cell) for cell in cells], names, (640, 384))
            labels = [(told[at % 10], *cell) for at, cell in zip(order, cells, strict=True)]
            _, text = painted_row([one for one in labels if one[0]], names, (640, 384))
            rows.append((picture, text))
        write_split(tmp_path / 'data', split, rows)
    write_data_yaml(tmp_path / 'data', names, val='val/images', test='test/images')
    return tmp_path / 'data'


def calibrate(data, tmp_path, layout='anchors'):
    bundle = write_tiny_bundle(tmp_path / 'bundle', layout)
    words = ['calibrate', '--model', str(bundle), '--data', str(data), '--test', str(data)]
    return bundle, main([*words, '--out', str(tmp_path / 'page')])


def test_card_gets_what_the_labels_say_of_its_scores(data, tmp_path, capsys):
    before = json.loads(
        (write_tiny_bundle(tmp_path / 'bundle', 'anchors') / 'card.json').read_text()
    )
    bundle, status = calibrate(data, tmp_path)
    assert status == 0
    text = (bundle / 'card.json').read_text()
    card = read_bundle(bundle).card
    assert text == card.to_json()
    after = json.loads(text)
    assert after.pop('class_calibration')['fitted']['on'] == ['val of data']
    assert before.pop('class_calibration') is None
    assert after == before
    assert card.class_calibration is not None
    # All scores are equal, so that chance fills the bins, and their gaps are noise.
    errors = card.class_calibration.fitted['expected_calibration_error']
    assert errors == {
        'val of data': pytest.approx(0, abs=0.08),
        'test of data': errors['val of data'],
    }
    blue = Detections(
        np.zeros((1, 4), np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        class_score=np.float32([[1, 0, 0, 0, 0]]),
    )
    (row,) = card.probabilities(blue)
    assert (row[0], row.sum()) == pytest.approx((0.7, 0.9), abs=0.02)
    printed = capsys.readouterr().out
    assert 'test of data         480    10.0%   0.300' in printed
    page = ReadPage((tmp_path / 'page' / 'calibration.html').read_text())
    assert page.titles() == ['Calibration errors', 'Reliability']
    assert '0.300' in page.cells
    assert len(page.figures()) == 2


def test_network_that_tells_the_best_class_alone_is_refused(data, tmp_path, capsys):
    bundle, status = calibrate(data, tmp_path, 'end_to_end')
    assert status == 1
    assert 'export it with `--layout anchors`' in capsys.readouterr().err
    assert read_bundle(bundle).card.class_calibration is None
