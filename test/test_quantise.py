"""One quantisation, two encodings: what is quantised, what is not, and that both mean the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')

from cone_perception.errors import SourceError  # noqa: E402
from training.quantise import (  # noqa: E402
    Calibration,
    encode_uint8,
    quantise,
    quantised_share,
)

FIRST, BODY = '/model.0/conv/Conv', '/model.3/conv/Conv'
HEAD = '/model.4/cv2.0/cv2.0.2/Conv'


def make_network(path: Path, head: str = HEAD) -> Path:
    """Three convolutions, a ReLU before the last, 3x32x32 -> 4x32x32."""
    random = np.random.default_rng(0)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = {
        'wf': random.normal(0, 0.5, (3, 3, 1, 1)),
        'w0': random.normal(0, 0.5, (8, 3, 3, 3)),
        'b0': random.normal(0, 0.1, 8),
        'w1': random.normal(0, 0.5, (4, 8, 1, 1)),
    }
    graph = helper.make_graph(
        [
            helper.make_node('Conv', ['images', 'wf'], ['first'], FIRST),
            helper.make_node('Conv', ['first', 'w0', 'b0'], ['c0'], BODY, pads=[1, 1, 1, 1]),
            helper.make_node('Relu', ['c0'], ['r0'], '/model.3/act/Relu'),
            helper.make_node('Conv', ['r0', 'w1'], ['output'], head),
        ],
        'net',
        [helper.make_tensor_value_info('images', onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info('output', onnx.TensorProto.FLOAT, [1, 4, 32, 32])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    entry = model.metadata_props.add()
    entry.key, entry.value = 'names', "{0: 'blue_cone'}"
    onnx.save(model, path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / 'pictures'
    folder.mkdir()
    random = np.random.default_rng(1)
    for index in range(6):
        picture = random.integers(0, 256, (24, 48, 3), np.uint8)
        cv2.imwrite(str(folder / f'{index}.png'), picture)
    return folder


@pytest.fixture
def quantised(tmp_path: Path, pictures: Path) -> onnx.ModelProto:
    network = make_network(tmp_path / 'net.onnx')
    return quantise(onnx.load(network), Calibration.from_folder(pictures, 4, 32, 32))


def answer(network: onnx.ModelProto, pictures: Path) -> np.ndarray:
    session = ort.InferenceSession(network.SerializeToString(), providers=['CPUExecutionProvider'])
    (picture,) = Calibration.from_folder(pictures, 1, 32, 32)
    return session.run(None, {'images': picture})[0]


def test_body_is_quantised_and_both_ends_stay_float(quantised: onnx.ModelProto) -> None:
    assert quantised_share(quantised) == (1, 3)
    inputs = {node.name: node.input[0] for node in quantised.graph.node}
    assert inputs[FIRST] == 'images'
    assert inputs[HEAD] == 'r0'


def test_weights_are_stored_as_int8(quantised: onnx.ModelProto) -> None:
    stored = {t.name: t for t in quantised.graph.initializer}
    body = next(node for node in quantised.graph.node if node.name == BODY)
    dequantise = next(node for node in quantised.graph.node if node.output[0] == body.input[1])
    assert stored[dequantise.input[0]].data_type == onnx.TensorProto.INT8
    assert 'w0' not in stored


@pytest.mark.parametrize(('encoded', 'zero', 'kind'), [(False, 0, 'INT8'), (True, 128, 'UINT8')])
def test_activations_have_the_zero_point_of_their_runtime(
    quantised: onnx.ModelProto, encoded: bool, zero: int, kind: str
) -> None:
    network = encode_uint8(quantised) if encoded else quantised
    stored = {t.name: t for t in network.graph.initializer}
    points = [stored[n.input[2]] for n in network.graph.node if n.op_type == 'QuantizeLinear']
    assert points
    for point in points:
        assert point.data_type == getattr(onnx.TensorProto, kind)
        assert int(onnx.numpy_helper.to_array(point)) == zero


def test_both_encodings_give_the_same_numbers(quantised: onnx.ModelProto, pictures: Path) -> None:
    np.testing.assert_array_equal(
        answer(quantised, pictures), answer(encode_uint8(quantised), pictures)
    )


def test_quantised_network_stays_close_to_float(
    tmp_path: Path, quantised: onnx.ModelProto, pictures: Path
) -> None:
    expected = answer(onnx.load(make_network(tmp_path / 'again.onnx')), pictures)
    error = np.abs(answer(quantised, pictures) - expected)
    assert 0 < error.max() < 0.05 * np.abs(expected).max()


def test_class_names_survive(quantised: onnx.ModelProto) -> None:
    names = {entry.key: entry.value for entry in encode_uint8(quantised).metadata_props}
    assert names == {'names': "{0: 'blue_cone'}"}


def test_network_without_a_known_head_is_refused(tmp_path: Path, pictures: Path) -> None:
    network = make_network(tmp_path / 'net.onnx', head='/other/Conv')
    with pytest.raises(SourceError, match='no head with the names of an Ultralytics export'):
        quantise(onnx.load(network), Calibration.from_folder(pictures, 4, 32, 32))


def test_calibration_sees_pictures_as_the_network_does(pictures: Path) -> None:
    (first, *_) = Calibration.from_folder(pictures, 4, 32, 64)
    source = cv2.resize(cv2.imread(str(pictures / '0.png')), (64, 32))
    assert first.shape == (1, 3, 32, 64)
    np.testing.assert_allclose(first[0].transpose(1, 2, 0), source[..., ::-1] / 255, atol=1e-6)
    (square, *_) = Calibration.from_folder(pictures, 4, 64, 64)
    np.testing.assert_allclose(square[0, :, :16], 114 / 255, atol=1e-6)


def test_too_few_calibration_pictures_are_refused(pictures: Path) -> None:
    with pytest.raises(SourceError, match='holds 6 pictures, but calibration needs 7'):
        Calibration.from_folder(pictures, 7, 32, 32)


def test_calibration_hash_depends_on_order_and_content(pictures: Path) -> None:
    calibration = Calibration.from_folder(pictures, 6, 32, 32)
    swapped = Calibration(calibration.pictures[::-1], 32, 32)
    assert calibration.sha256() == Calibration.from_folder(pictures, 6, 32, 32).sha256()
    assert calibration.sha256() != swapped.sha256()
