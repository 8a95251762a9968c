import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_network import CLASS_NAMES, change_card, write_tiny_bundle

from cone_perception.classes import ClassCalibration
from cone_perception.engines.open import open_engine
from cone_perception.errors import EngineError, ModelError
from cone_perception.model_card import file_sha256, read_bundle
from cone_perception.types import Detections


@pytest.fixture
def bundle(tmp_path):
    return write_tiny_bundle(tmp_path / 'bundle')


def test_card_reads_back_as_it_was_written(bundle):
    card = read_bundle(bundle).card
    assert card.class_names == CLASS_NAMES
    assert (card.height_px, card.width_px) == (384, 640)
    (bundle / 'card.json').write_text(card.to_json())
    assert read_bundle(bundle / 'card.json').card == card
    assert '"map50": null' in replace(card, metrics={'map50': math.nan}).to_json()


def test_network_without_a_card_is_refused_by_name(bundle):
    (bundle / 'card.json').unlink()
    with pytest.raises(ModelError, match=r'tiny\.onnx is not a model card'):
        read_bundle(bundle / 'tiny.onnx')
    with pytest.raises(ModelError, match=r'card\.json does not exist'):
        read_bundle(bundle)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'colour': 1}, 'no entry colour'),
        ({'class_names': 'blue'}, 'class_names must be a list'),
        ({'class_names': ['a', 'a']}, 'distinct'),
        ({'height_px': 100}, 'multiple of 32'),
        ({'output_layout': 'yolov3'}, 'output_layout must be one of'),
        ({'thresholds': {'blue_cone': 0.5}}, 'thresholds must name each class'),
        ({'thresholds': dict.fromkeys(CLASS_NAMES, 2)}, 'must lie in 0..1'),
        ({'networks': []}, 'at least one file'),
        ({'networks': [{'file': '../x'}]}, 'NetworkFile'),
        ({'schema': 99}, 'schema must be one of 1'),
        ({'preprocessing': {'colour_order': 'cmyk'}}, 'colour_order must be one of'),
        ({'training': 3}, 'training must be a JSON object'),
        ({'class_calibration': {'slope': 1, 'offset': 0, 'temperature': 0}}, 'must be above 0'),
    ],
)
def test_wrong_entry_is_refused_by_name(bundle, changes, message):
    change_card(bundle, **changes)
    with pytest.raises(ModelError, match=message) as error:
        read_bundle(bundle)
    assert 'card.json' in str(error.value)


def test_card_that_is_not_json_is_refused(bundle):
    (bundle / 'card.json').write_text('{"schema": 1,')
    with pytest.raises(ModelError, match='not a valid model card'):
        read_bundle(bundle)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    'spoil, asked, error, message',
    [
        (truncate, {}, ModelError, r'tiny\.onnx has sha256'),
        (Path.unlink, {}, ModelError, r'tiny\.onnx is missing'),
        (None, {'batch': 2}, ModelError, 'no fp32 network with float encoding and batch 2'),
        (None, {'runtime': 'abacus'}, EngineError, 'is not known; choose one of'),
    ],
    ids=['truncated', 'missing', 'batch', 'engine'],
)
def test_network_that_cannot_be_had_is_refused_by_name(bundle, spoil, asked, error, message):
    if spoil:
        spoil(bundle / 'tiny.onnx')
    with pytest.raises(error, match=message):
        open_engine(read_bundle(bundle), **asked)


def test_file_with_the_right_hash_that_is_no_network_is_refused(bundle):
    (bundle / 'tiny.onnx').write_bytes(b'not onnx')
    card = json.loads((bundle / 'card.json').read_text())
    card['networks'][0]['sha256'] = file_sha256(bundle / 'tiny.onnx')
    change_card(bundle, networks=card['networks'])
    for engine in ('openvino', 'onnxruntime'):
        with pytest.raises(ModelError, match='cannot be read as ONNX'):
            open_engine(read_bundle(bundle), engine)


@pytest.mark.parametrize('engine', ['openvino', 'onnxruntime'])
@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
def test_five_classes_against_a_card_of_four_are_refused(tmp_path, engine, layout):
    folder = write_tiny_bundle(tmp_path / 'b', layout, class_names=CLASS_NAMES[:4])
    with pytest.raises(ModelError, match='classes'):
        open_engine(read_bundle(folder), engine)


@pytest.mark.parametrize('engine', ['openvino', 'onnxruntime'])
@pytest.mark.parametrize(
    'changes, message',
    [
        ({'height_px': 640}, 'takes'),
        ({'output_layout': 'anchors'}, 'outputs'),
        ({'class_names': list(CLASS_NAMES[::-1])}, 'trained on the classes'),
    ],
)
def test_network_that_disagrees_with_its_card_is_refused(bundle, engine, changes, message):
    change_card(bundle, **changes)
    with pytest.raises(ModelError, match=rf'tiny\.onnx.*{message}'):
        open_engine(read_bundle(bundle), engine)


def scored(*rows):
    """Detections with these scores of every class."""
    scores = np.array(rows, np.float32)
    best = scores.argmax(axis=1)
    boxes = np.zeros((len(rows), 4), np.float32)
    return Detections(boxes, scores.max(axis=1), best, class_score=scores)


def test_probabilities_of_scores_are_what_the_card_s_numbers_say(bundle):
    """Scores of 0.8 and 0.2 lie at 4 and 1/4 to 1; the square root of these odds is 2 to 1/2."""
    change_card(bundle, class_calibration={'slope': 2, 'offset': 0, 'temperature': 2})
    card = read_bundle(bundle).card
    (row,) = card.probabilities(scored([0.8, 0.2, 0, 0, 0.2]))
    cone = 16 / (16 + 1)
    np.testing.assert_allclose(row[[0, 1, 4]], np.array([4, 1, 1]) / 6 * cone, rtol=0.01)
    np.testing.assert_allclose(row.sum(), cone, rtol=1e-5)
    assert card.probabilities(scored([0.8, 0.2, 0, 0, 0.2])[:0]).shape == (0, 5)


@pytest.mark.parametrize('score', [0, 1])
def test_probabilities_are_finite_and_sum_to_at_most_one(score):
    calibration = ClassCalibration(1.2, 3, 0.2)
    found = calibration.probabilities(scored([score] * 5, [score, 0, 0, 0, 1]), 5)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.sum(axis=1).max() <= 1 + 1e-6


def test_card_without_calibration_tells_the_scores_themselves(bundle):
    card = read_bundle(bundle).card
    assert card.class_calibration is None
    found = scored([0.8, 0.3, 0, 0, 0.1])
    np.testing.assert_array_equal(card.probabilities(found), found.class_score)
    np.testing.assert_array_equal(
        card.probabilities(replace(found, class_score=None)), np.float32([[0.8, 0, 0, 0, 0]])
    )


def test_network_that_tells_the_best_class_alone_gives_it_nearly_all_of_the_cone(bundle):
    change_card(bundle, class_calibration={'slope': 1, 'offset': 0, 'temperature': 1.5})
    found = replace(scored([0.8, 0.3, 0, 0, 0.1]), class_score=None)
    (row,) = read_bundle(bundle).card.probabilities(found)
    assert row[0] == pytest.approx(0.8, abs=1e-3)
    assert row[1:].max() < 1e-3
