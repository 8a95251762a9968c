import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
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
        with pytest.raises(ModelError, match='damaged, or no ONNX file'):
            open_engine(read_bundle(bundle), engine)


def listed_anew(folder, name):
    """The bundle's card lists this file in place of its network."""
    card = json.loads((folder / 'card.json').read_text())
    entry = {**card['networks'][0], 'file': name, 'sha256': file_sha256(folder / name)}
    change_card(folder, networks=[entry])
    return read_bundle(folder)


@pytest.mark.parametrize('inside', ['initializer', 'constant', 'branch'])
def test_weights_in_another_file_are_refused(bundle, inside):
    network = onnx.load(bundle / 'tiny.onnx')
    outside = onnx.numpy_helper.from_array(np.ones(4, np.float32), 'outside')
    outside.ClearField('raw_data')
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key='location', value='weights.bin')
    node = onnx.helper.make_node('Constant', [], ['c'], value=outside)
    if inside == 'initializer':
        network.graph.initializer.append(outside)
    elif inside == 'constant':
        network.graph.node.append(node)
    else:
        branch = onnx.helper.make_graph([node], 'branch', [], [])
        network.graph.node.append(
            onnx.helper.make_node('If', ['x'], ['y'], then_branch=branch, else_branch=branch)
        )
    (bundle / 'tiny.onnx').write_bytes(network.SerializeToString())
    with pytest.raises(ModelError, match='weights in another file'):
        open_engine(listed_anew(bundle, 'tiny.onnx'))


def test_only_onnx_is_a_network_and_a_pointer_is_told(bundle):
    (bundle / 'net.xml').write_text('<net/>')
    (bundle / 'far.onnx').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
    for name, message in (('net.xml', r'no \.onnx file'), ('far.onnx', 'git lfs pull')):
        with pytest.raises(ModelError, match=message):
            open_engine(listed_anew(bundle, name))


def test_network_that_takes_half_is_refused_with_a_way_out(bundle):
    network = onnx.load(bundle / 'tiny.onnx')
    network.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    cast = onnx.helper.make_node('Cast', [network.graph.input[0].name], ['wide'], to=1)
    for node in network.graph.node:
        node.input[:] = ['wide' if n == network.graph.input[0].name else n for n in node.input]
    network.graph.node.insert(0, cast)
    onnx.save(network, bundle / 'tiny.onnx')
    with pytest.raises(ModelError, match='without half'):
        open_engine(listed_anew(bundle, 'tiny.onnx'), 'onnxruntime')


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
