"""The demo model that comes with the package: whole, small, licensed, and it finds cones."""

import json

import cv2
import numpy as np
import pytest

from cone_perception.accuracy.average_precision import map50, rank
from cone_perception.accuracy.matching import Matches
from cone_perception.classes import CLASS_NAMES
from cone_perception.engines.check import check_engine
from cone_perception.engines.cpu.open import open_network
from cone_perception.engines.open import open_engine
from cone_perception.engines.tensorrt.compile_process import compile_network
from cone_perception.engines.tensorrt.order import driving_networks, network_for_gpu
from cone_perception.engines.tensorrt.provide import check_convolutions
from cone_perception.filters import Filters
from cone_perception.model_card import file_sha256, read_bundle, shipped_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Detections, Frame
from training.simulate.bag import drive_frames
from training.simulate.scene import SimulateSettings

UNSEEN_SEED = 3


@pytest.fixture(scope='module')
def bundle():
    return read_bundle(shipped_bundle())


@pytest.fixture(scope='module')
def drive():
    """Pictures and cones of a drive that no training saw: (Frame, truth) each half second."""
    pictures = []
    for rendered in drive_frames(SimulateSettings(), UNSEEN_SEED, 15.0, 2.0):
        boxes = np.array([label.xyxy_px for label in rendered.labels], np.float32).reshape(-1, 4)
        classes = np.array([label.class_id for label in rendered.labels], np.int64)
        truth = Detections(boxes, np.ones(len(boxes), np.float32), classes)
        pictures.append((Frame(np.asarray(rendered.image)), truth))
    return pictures


def detect(bundle, frames, engine):
    everything = Filters(thresholds=dict.fromkeys(bundle.card.class_names, 0.001))
    with ConeDetector(bundle.card, open_engine(bundle, engine)) as detector:
        return [detector.detect([frame], everything)[0][0] for frame in frames]


def test_bundle_is_whole_small_and_licensed(bundle):
    assert bundle.card.class_names == tuple(CLASS_NAMES)
    assert (bundle.card.height_px, bundle.card.width_px) == (384, 640)
    assert bundle.card.licence == 'AGPL-3.0-only'
    for name, sha256 in bundle.card.other_files.items():
        assert file_sha256(bundle.folder / name) == sha256
    size = {n.file: bundle.checked_path(n).stat().st_size for n in bundle.card.networks}
    assert max(size['int8-uint8.onnx'], size['int8-int8.onnx']) <= 4_000_000
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) <= 14_000_000
    listed = {n.file for n in bundle.card.networks} | set(bundle.card.other_files) | {'card.json'}
    assert listed == {path.name for path in bundle.folder.iterdir()}


def test_it_holds_what_a_cpu_and_a_gpu_take_and_all_of_it_passed(bundle):
    kinds = {(n.precision, n.encoding) for n in bundle.card.networks}
    assert kinds == {('int8', 'uint8'), ('int8', 'int8'), ('fp16', 'float')}
    assert all(bundle.card.passed_gate(network) for network in bundle.card.networks)
    warnings = []
    driving = driving_networks(bundle, 'best', 1, warnings.append)
    assert [network.precision for network in driving] == ['int8', 'fp16']
    assert warnings == []


def test_int8_for_gpus_has_the_scales_of_the_one_for_cpus_whose_weights_have_7_bits(bundle):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    from tiny_network import quantised_share

    from training.export.quantise import steps_of

    for_cpu, for_gpu = (
        onnx.load(bundle.checked_path(bundle.network('int8', encoding)))
        for encoding in ('uint8', 'int8')
    )
    assert steps_of(for_gpu) == steps_of(for_cpu)
    assert quantised_share(for_gpu) == tuple(bundle.card.gate['int8_convolutions'])
    for network, largest in ((for_cpu, 63), (for_gpu, 127)):
        weights = [t for t in network.graph.initializer if t.name.endswith('_int8')]
        weights = [onnx.numpy_helper.to_array(tensor) for tensor in weights if tensor.dims]
        assert max(np.abs(each.astype(int)).max() for each in weights) == largest


@pytest.mark.parametrize('precision', ['int8', 'fp16'])
def test_what_is_built_for_a_gpu_answers_as_its_reference(bundle, precision):
    """ONNX Runtime in the GPU's place: what the engine is held to can be met."""
    pytest.importorskip('onnxruntime', reason='the dev extra is not installed')
    engine = open_network(bundle, network_for_gpu(bundle, precision, 1), 'onnxruntime')
    check = check_engine(engine, bundle)
    engine.close()
    assert check.passed, check.reasons
    assert check.boxes > 20


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['int8', 'fp16'])
def test_it_compiles_for_the_rtx_4060(bundle, precision):
    pytest.importorskip('tensorrt_rtx_bindings')
    network = bundle.checked_path(network_for_gpu(bundle, precision, 1)).read_bytes()
    compiled = compile_network(network, 'tensorrt_rtx', 'SM89', precision)
    check_convolutions(compiled.convolutions, bundle.card, precision)
    assert set(compiled.convolutions) <= {'int8', 'fp16'}


def test_card_says_what_it_was_trained_and_judged_on(bundle):
    assert bundle.card.training['pictures'] == 'rendered by cone-training simulate only'
    for data in ('rendered_drives_900_to_903', 'fsoco_mini_test'):
        assert {'pictures', 'colour_map50_interval_95', 'per_class'} <= set(
            bundle.card.metrics[data]
        )
    assert json.loads(bundle.card.to_json())['schema'] == 1


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['openvino', 'onnxruntime'])
def test_cones_of_an_unseen_drive_are_found(bundle, drive, engine):
    if engine == 'onnxruntime':
        pytest.importorskip('onnxruntime', reason='the dev extra is not installed')
    found = detect(bundle, [frame for frame, _ in drive], engine)
    pairs = [(cones, truth) for cones, (_, truth) in zip(found, drive, strict=True)]
    matches = Matches.of(pairs, len(CLASS_NAMES))
    once = np.ones((1, len(pairs)), np.int32)
    ranked = rank(matches, 24)
    least = [bundle.card.thresholds[name] for name in CLASS_NAMES]
    truths, right, correct = sum(r.counts(once, s) for r, s in zip(ranked, least, strict=True))
    assert truths > 50
    assert map50(ranked, once) >= 0.85
    assert correct / right >= 0.85
    assert correct / truths >= 0.85


def test_picture_without_cones_is_an_empty_answer(bundle):
    sky = np.full((720, 1280, 3), (230, 190, 150), np.uint8)
    grass = cv2.randn(np.empty((360, 1280, 3), np.uint8), (60, 110, 70), (9, 9, 9))
    sky[360:] = grass
    with ConeDetector(bundle.card, open_engine(bundle)) as detector:
        (found,), _ = detector.detect([Frame(sky)], Filters())
    assert len(found) == 0
