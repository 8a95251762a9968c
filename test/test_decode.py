import numpy as np
import pytest

from cone_perception.engines.decode import decode, read_layout
from cone_perception.errors import ModelError

THRESHOLDS = np.array([0.5, 0.3], np.float32)


def anchors(*boxes):
    """[4 + 2, A] output from (cx, cy, w, h, score of class 0, of class 1)."""
    return np.array(boxes, np.float32).T


@pytest.mark.parametrize(
    'shape, classes, layout',
    [
        ((1, 9, 5040), 5, 'anchors'),
        ((2, 9, 8400), 5, 'anchors'),
        ((1, 300, 6), 5, 'end_to_end'),
        ((1, 6, 5040), 2, 'anchors'),
        ((2, 300, 6), 2, 'end_to_end'),
    ],
)
def test_layout_is_read_from_the_shape(shape, classes, layout):
    assert read_layout(shape, classes) == layout


@pytest.mark.parametrize(
    'shape', [(1, 8, 5040), (1, 5040, 9), (1, 9), (1, 300, 7), (1, 9, 1, 5040)]
)
def test_unknown_layout_is_refused_with_what_was_found(shape):
    with pytest.raises(ModelError, match='which is no layout known for 5 classes') as error:
        read_layout(shape, 5)
    assert str(list(shape)) in str(error.value)


def test_overlapping_boxes_of_one_class_become_one():
    output = anchors((50, 50, 20, 20, 0.9, 0), (51, 50, 20, 20, 0.8, 0), (90, 50, 20, 20, 0.7, 0))
    found = decode(output, 'anchors', THRESHOLDS, 0.5)
    np.testing.assert_allclose(found.score, [0.9, 0.7])
    np.testing.assert_allclose(found.xyxy_px[0], [40, 40, 60, 60])


def test_overlapping_boxes_of_two_classes_both_stay():
    output = anchors((50, 50, 20, 20, 0.9, 0), (50, 50, 20, 20, 0, 0.8))
    found = decode(output, 'anchors', THRESHOLDS, 0.5)
    assert found.class_id.tolist() == [0, 1]


def test_every_box_keeps_the_score_of_every_class():
    output = anchors((90, 50, 20, 20, 0.6, 0.1), (50, 50, 20, 20, 0.2, 0.9), (9, 9, 4, 4, 0.1, 0))
    found = decode(output, 'anchors', THRESHOLDS, 0.5)
    np.testing.assert_array_equal(found.class_score, np.float32([[0.2, 0.9], [0.6, 0.1]]))
    np.testing.assert_array_equal(found.class_score.max(axis=1), found.score)
    rows = np.array([[8, 8, 12, 12, 0.9, 0]], np.float32)
    assert decode(rows, 'end_to_end', THRESHOLDS, 0.5).class_score is None


@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
def test_threshold_of_each_class_is_its_own(layout):
    if layout == 'anchors':
        output = anchors((10, 10, 4, 4, 0.4, 0), (30, 30, 4, 4, 0, 0.4))
    else:
        output = np.array([[8, 8, 12, 12, 0.4, 0], [28, 28, 32, 32, 0.4, 1]], np.float32)
    found = decode(output, layout, THRESHOLDS, 0.5)
    assert found.class_id.tolist() == [1]
    np.testing.assert_allclose(found.xyxy_px, [[28, 28, 32, 32]])


def test_end_to_end_keeps_overlaps_and_sorts_by_score():
    output = np.array([[0, 0, 9, 9, 0.6, 0], [0, 0, 9, 9, 0.8, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    found = decode(output, 'end_to_end', THRESHOLDS, 0.5)
    np.testing.assert_allclose(found.score, [0.8, 0.6])


@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
def test_nothing_above_the_thresholds_is_an_empty_result(layout):
    output = np.zeros((6, 100) if layout == 'anchors' else (100, 6), np.float32)
    found = decode(output, layout, THRESHOLDS, 0.5)
    assert len(found) == 0
    assert found.xyxy_px.shape == (0, 4)


@pytest.mark.parametrize(
    'layout, output, message',
    [
        ('anchors', np.full((6, 100), np.nan), 'scores that are not numbers'),
        ('end_to_end', np.full((100, 6), np.nan), 'scores that are not numbers'),
        ('end_to_end', [[np.inf, 0, 9, 9, 0.9, 0]], 'boxes that are not numbers'),
        ('end_to_end', [[0, 0, 9, 9, 0.9, 2]], 'found class 2'),
        ('end_to_end', [[0.5, 0.5, 0.1, 0.2, 0.9, 0.05]], 'no class'),
    ],
)
def test_broken_output_is_an_error_not_an_empty_result(layout, output, message):
    with pytest.raises(ModelError, match=message):
        decode(np.array(output, np.float32), layout, THRESHOLDS, 0.5)
