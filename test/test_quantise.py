"""One quantisation, two encodings: what is quantised, what is not, and that both mean the same."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')

from tiny_network import onnx_model, quantised_share  # noqa: E402

from cone_perception.errors import SourceError  # noqa: E402
from training.export import quantise as quantise_module  # noqa: E402
from training.export.calibration import Calibration  # noqa: E402
from training.export.quantise import (  # noqa: E402
    convert_to_half,
    decoding_nodes,
    measure_steps,
    quantise,
    steps_of,
    store_weights_in_half,
)
from training.export.sensitivity import steps_without, usual_float_blocks  # noqa: E402

FIRST, BODY = '/model.0/conv/Conv', '/model.3/conv/Conv'
HEAD = '/model.4/cv2.0/cv2.0.2/Conv'


def make_network(head: str = HEAD, batch: int = 1) -> onnx.ModelProto:
    """Three convolutions, a ReLU before the last, a sum that decodes: 3x32x32 -> 4x32x32."""
    random = np.random.default_rng(0)
    node = onnx.helper.make_node
    weights = {
        'wf': random.normal(0, 0.5, (3, 3, 1, 1)),
        'w0': random.normal(0, 0.5, (8, 3, 3, 3)),
        'b0': random.normal(0, 0.1, 8),
        'w1': random.normal(0, 0.5, (4, 8, 1, 1)),
        'anchors': np.full((1, 4, 1, 1), 600.1),
    }
    nodes = [
        node('Conv', ['images', 'wf'], ['first'], FIRST),
        node('Conv', ['first', 'w0', 'b0'], ['c0'], BODY, pads=[1, 1, 1, 1]),
        node('Relu', ['c0'], ['r0'], '/model.3/act/Relu'),
        node('Conv', ['r0', 'w1'], ['c1'], head),
        node('Add', ['c1', 'anchors'], ['output'], '/model.4/Add'),
    ]
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    model = onnx_model(nodes, constants, [batch, 3, 32, 32], [batch, 4, 32, 32], opset=19)
    entry = model.metadata_props.add()
    entry.key, entry.value = 'names', "{0: 'blue_cone'}"
    return model


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index, picture in enumerate(np.random.default_rng(1).integers(0, 256, (6, 24, 48, 3))):
        cv2.imwrite(str(folder / f'{index}.png'), picture.astype(np.uint8))
    return folder


@pytest.fixture
def original():
    return make_network()


@pytest.fixture
def steps(original, pictures):
    """Steps of what becomes INT8 unless a search chooses."""
    measured = measure_steps(original, Calibration.from_folder(pictures, 4, 32, 32))
    assert set(measured) == {FIRST, BODY, HEAD}
    return steps_without(measured, original, usual_float_blocks(original))


@pytest.fixture
def quantised(original, steps):
    return quantise(original, steps)


def answer(network: onnx.ModelProto, pictures: Path, fuse: bool = True) -> np.ndarray:
    """ONNX Runtime's. fuse: False computes each quantise and dequantise step by itself."""
    options = ort.SessionOptions()
    if not fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        network.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    (picture,) = Calibration.from_folder(pictures, 1, 32, 32)
    batch = network.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    return session.run(None, {'images': np.repeat(picture, batch, axis=0)})[0]


def stored_in(network: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in network.graph.initializer}


ANSWER_IN_OPENVINO = """
import sys
from pathlib import Path
import numpy as np
from cone_perception.engines.cpu.openvino import OpenVinoEngine
from cone_perception.model_card import NetworkFile, Preprocessing
network, picture, found = map(Path, sys.argv[1:])
engine = OpenVinoEngine(
    network, NetworkFile(network.name, '0' * 64, 'int8', 'uint8'), Preprocessing(), threads=1
)
np.save(found, engine.run(np.load(picture)))
"""


def run_without_vnni(*arguments: object) -> None:
    """Run Python in a process where OpenVINO sees a CPU that ends with AVX2."""
    environment = {**os.environ, 'ONEDNN_MAX_CPU_ISA': 'AVX2'}
    subprocess.run([sys.executable, *map(str, arguments)], env=environment, check=True)


def test_body_is_quantised_and_both_ends_stay_float(quantised):
    assert quantised_share(quantised) == (1, 3)
    inputs = {node.name: node.input[0] for node in quantised.graph.node}
    assert inputs[FIRST] == 'images'
    assert inputs[HEAD] == 'r0'


def test_weights_are_stored_as_int8(quantised):
    body = next(node for node in quantised.graph.node if node.name == BODY)
    dequantise = next(node for node in quantised.graph.node if node.output[0] == body.input[1])
    assert stored_in(quantised)[dequantise.input[0]].dtype == np.int8
    assert 'w0' not in stored_in(quantised)


@pytest.mark.parametrize(('encoding', 'zero'), [('int8', 0), ('uint8', 128)])
def test_activations_have_the_zero_point_of_their_runtime(original, steps, encoding, zero):
    network = quantise(original, steps, encoding)
    stored = stored_in(network)
    points = [stored[n.input[2]] for n in network.graph.node if n.op_type == 'QuantizeLinear']
    assert points
    assert {(point.dtype.name, int(point)) for point in points} == {(encoding, zero)}


def test_both_encodings_give_the_same_numbers_for_the_same_weights(original, steps, pictures):
    for_gpu, for_cpu = (quantise(original, steps, encoding) for encoding in ('int8', 'uint8'))
    stored = {t.name: t for t in for_cpu.graph.initializer}
    for tensor in for_gpu.graph.initializer:
        if tensor.name in ('w0_int8', 'w0_scale'):
            tensor.CopyFrom(stored[tensor.name])
    np.testing.assert_array_equal(answer(for_gpu, pictures), answer(for_cpu, pictures))


@pytest.mark.parametrize('encoding', ['int8', 'uint8'])
def test_quantised_network_stays_close_to_float(original, steps, pictures, encoding):
    expected = answer(original, pictures)
    error = np.abs(answer(quantise(original, steps, encoding), pictures) - expected)
    assert 0 < error.max() < 0.05 * np.ptp(expected)


def test_class_names_survive(quantised):
    names = {entry.key: entry.value for entry in quantised.metadata_props}
    assert names == {'names': "{0: 'blue_cone'}"}


def test_network_without_a_known_head_is_refused(pictures):
    network = make_network(head='/other/Conv')
    with pytest.raises(SourceError, match='no head with the names of an Ultralytics export'):
        measure_steps(network, Calibration.from_folder(pictures, 4, 32, 32))


def test_calibration_sees_pictures_as_the_network_does(pictures):
    (first, *_) = Calibration.from_folder(pictures, 4, 32, 64)
    source = cv2.resize(cv2.imread(str(pictures / '0.png')), (64, 32))
    assert first.shape == (1, 3, 32, 64)
    np.testing.assert_allclose(first[0].transpose(1, 2, 0), source[..., ::-1] / 255, atol=1e-6)
    (square, *_) = Calibration.from_folder(pictures, 4, 64, 64)
    np.testing.assert_allclose(square[0, :, :16], 114 / 255, atol=1e-6)


def test_calibration_hash_depends_on_order_and_content(pictures):
    calibration = Calibration.from_folder(pictures, 6, 32, 32)
    swapped = Calibration(calibration.pictures[::-1], 32, 32)
    assert calibration.sha256() == Calibration.from_folder(pictures, 6, 32, 32).sha256()
    assert calibration.sha256() != swapped.sha256()


def test_steps_are_what_fp16_can_hold(quantised):
    stored = stored_in(quantised)
    scales = {n.input[1] for n in quantised.graph.node if n.op_type == 'DequantizeLinear'}
    assert len(scales) == 2
    for name in scales:
        np.testing.assert_array_equal(stored[name], stored[name].astype(np.float16))


@pytest.mark.parametrize(('encoding', 'largest'), [('int8', 127), ('uint8', 63)])
def test_largest_weight_is_not_cut_off(original, encoding, largest):
    """On CPUs it takes 7 bits: two products of 255 x 63 fit into 16 bits."""
    stored = stored_in(quantise(original, {BODY: 0.5}, encoding))
    back = stored['w0_int8'] * stored['w0_scale'][:, None, None, None]
    assert np.abs(back - stored_in(original)['w0']).max() <= stored['w0_scale'].max() / 2
    assert np.abs(stored['w0_int8']).max() == largest


def test_other_batch_gets_the_same_scales(quantised, steps, pictures):
    two = quantise(make_network(batch=2), steps)
    assert steps_of(two) == steps_of(quantised) == steps
    both = np.concatenate([answer(quantised, pictures)] * 2)
    np.testing.assert_array_equal(answer(two, pictures), both)


def test_scales_of_other_weights_are_refused(original, steps):
    original.graph.node[1].name = '/model.7/conv/Conv'
    with pytest.raises(SourceError, match=f'no node {BODY}'):
        quantise(original, steps)


def test_network_without_steps_computes_as_the_original(original, pictures):
    everything = measure_steps(original, Calibration.from_folder(pictures, 4, 32, 32))
    assert quantised_share(quantise(original, everything)) == (3, 3)
    floats = quantise(original, {})
    np.testing.assert_array_equal(answer(floats, pictures), answer(original, pictures))


def test_fp16_twin_decodes_in_fp32(original, pictures):
    assert decoding_nodes(original) == {'/model.4/Add'}
    half = convert_to_half(original, decoding_nodes(original))
    stored = stored_in(half)
    assert stored['anchors'].dtype == np.float32
    weights = [stored[n.input[1]].dtype for n in half.graph.node if n.op_type == 'Conv']
    assert set(weights) == {np.dtype(np.float16)}
    for end in (half.graph.input[0], half.graph.output[0]):
        assert end.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    error = np.abs(answer(half, pictures) - answer(original, pictures)).max()
    assert 0 < error < 0.02  # at 600 FP16 itself counts in halves


def test_int8_for_tensorrt_is_fp16_around(quantised, pictures):
    half = convert_to_half(quantised, {'/model.4/Add'})
    assert quantised_share(half) == (1, 3)
    stored = stored_in(half)
    scales = [n.input[1] for n in half.graph.node if n.op_type == 'DequantizeLinear']
    assert {stored[name].dtype for name in scales} == {np.dtype(np.float16)}
    assert steps_of(half) == steps_of(quantised)
    error = np.abs(answer(half, pictures) - answer(quantised, pictures)).max()
    assert error < 0.1


def test_float_weights_take_half_the_space(original, pictures):
    weights = next(t for t in original.graph.initializer if t.name == 'w0')
    big = np.random.default_rng(0).normal(0, 0.1, (8, 3, 7, 7)).astype(np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(big, 'w0'))
    original.graph.node[1].attribute[0].ints[:] = [3, 3, 3, 3]
    small = store_weights_in_half(original)
    assert small.ByteSize() < original.ByteSize() - big.nbytes * 0.4
    np.testing.assert_allclose(answer(small, pictures), answer(original, pictures), atol=0.01)


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='only x86 CPUs add in 16 bits')
@pytest.mark.parametrize(('largest', 'saturates'), [(127, True), (63, False)])
def test_cpu_without_vnni_saturates_with_8_bits_and_not_with_7(
    tmp_path, monkeypatch, original, pictures, largest, saturates
):
    """Two equal weights and two bright pixels overflow. ONNX Runtime has no such mask: where the
    CPU has VNNI, its part here says nothing.
    """
    pytest.importorskip('openvino')
    monkeypatch.setitem(quantise_module.LARGEST_WEIGHT, 'uint8', largest)
    weights = next(t for t in original.graph.initializer if t.name == 'w0')
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full((8, 3, 3, 3), 0.5, np.float32), 'w0'))
    network = quantise(original, {BODY: 1 / 100}, 'uint8')
    expected = answer(network, pictures, fuse=False)
    path, picture, found = (tmp_path / name for name in ('net.onnx', 'in.npy', 'out.npy'))
    onnx.save(network, path)
    (letterboxed,) = Calibration.from_folder(pictures, 1, 32, 32).shown()
    np.save(picture, letterboxed[None])
    run_without_vnni('-c', ANSWER_IN_OPENVINO, path, picture, found)
    worst = np.abs(np.load(found) - expected).max()
    assert worst > 1 if saturates else worst < 0.001
    if not saturates:
        np.testing.assert_allclose(answer(network, pictures), expected, atol=0.001)


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='only x86 CPUs add in 16 bits')
def test_bad_block_is_found_on_a_cpu_without_vnni():
    pytest.importorskip('openvino')
    tests = Path(__file__).with_name('test_sensitivity.py')
    run_without_vnni('-m', 'pytest', '-q', f'{tests}::test_block_with_bad_scales_loses_most')
