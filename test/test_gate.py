"""The gate: equal networks pass, damaged ones are refused, and the card says which."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from planted_data import write_data_yaml, write_split  # noqa: E402
from tiny_network import CELL_PX, CLASS_NAMES, painted, write_tiny_bundle  # noqa: E402

from cone_perception.dataset.labels import label_rows, label_text  # noqa: E402
from cone_perception.dataset.split import read_split  # noqa: E402
from cone_perception.engines.cpu.open import computes_bfloat16  # noqa: E402
from cone_perception.errors import ModelError, RecipeError  # noqa: E402
from cone_perception.model_card import Bundle, NetworkFile, file_sha256, read_bundle  # noqa: E402
from cone_perception.types import Detections  # noqa: E402
from training.cli import main  # noqa: E402
from training.export import gate  # noqa: E402
from training.recipe.recipe import GateLimits  # noqa: E402

HEIGHT_PX, WIDTH_PX = 96, 160


def in_cells(height_px: int, width_px: int, cones: dict[str, int]) -> tuple[np.ndarray, str]:
    """A grey picture with cones in the cells of these numbers, where the tiny network looks."""
    row, column = np.divmod([*cones.values()], width_px // CELL_PX)
    corners = np.stack([column, row, column + 1, row + 1], axis=1) * CELL_PX
    boxes = [
        (name, *corner[:2], CELL_PX, CELL_PX) for name, corner in zip(cones, corners, strict=True)
    ]
    picture = painted(*boxes, height_px=height_px, width_px=width_px)
    classes = [CLASS_NAMES.index(name) for name in cones]
    return picture, label_text(label_rows(classes, corners, width_px, height_px), exact=True)


def write_data(data: Path, rows: list[tuple[np.ndarray, str]]) -> Path:
    write_split(data, 'val', rows)
    return write_data_yaml(data, CLASS_NAMES, train='val/images', val='val/images').parent


@pytest.fixture(autouse=True)
def cpu_without_bfloat16(monkeypatch):
    monkeypatch.setattr(gate, 'computes_bfloat16', lambda: False)


@pytest.fixture
def data(tmp_path):
    """Six pictures, a blue and a yellow cone in each."""
    cones = [{'blue_cone': index, 'yellow_cone': index + 7} for index in range(6)]
    return write_data(tmp_path / 'data', [in_cells(HEIGHT_PX, WIDTH_PX, each) for each in cones])


@pytest.fixture
def reference(tmp_path):
    return read_bundle(
        write_tiny_bundle(tmp_path / 'bundle', 'anchors', height_px=HEIGHT_PX, width_px=WIDTH_PX)
    )


def with_network(bundle: Bundle, network: onnx.ModelProto, file: str = 'other.onnx') -> Bundle:
    """The bundle with one more network, which calls itself INT8 for OpenVINO."""
    path = bundle.folder / file
    onnx.save(network, path)
    entry = NetworkFile(file, file_sha256(path), 'int8', 'uint8')
    card = replace(bundle.card, networks=(*bundle.card.networks, entry))
    (bundle.folder / 'card.json').write_text(card.to_json())
    return read_bundle(bundle.folder)


def scaled(bundle: Bundle, factor: float, rows: slice = slice(0, 5)) -> onnx.ModelProto:
    """The FP32 network with the scores of some classes multiplied."""
    network = onnx.load(bundle.folder / bundle.card.networks[0].file)
    for tensor in network.graph.initializer:
        if tensor.name in ('weights', 'bias'):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[rows] *= factor
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return network


def quantised_everywhere(bundle: Bundle, folder: Path) -> onnx.ModelProto:
    """Every operator in INT8: boxes up to 160 and scores up to 1 share one scale."""
    from onnxruntime.quantization import quantize_static

    random = np.random.default_rng(0)
    pictures = [random.random((1, 3, HEIGHT_PX, WIDTH_PX), np.float32) for _ in range(3)]
    inputs = ({'images': picture} for picture in pictures)
    source = bundle.folder / bundle.card.networks[0].file
    reader = SimpleNamespace(get_next=lambda: next(inputs, None))
    quantize_static(source, folder / 'all.onnx', reader)
    return onnx.load(folder / 'all.onnx')


def judge(bundle: Bundle, data: Path, limits: GateLimits | None = None) -> gate.GateResult:
    return gate.judge_bundle(bundle, read_split(data, 'val'), limits or GateLimits(), resamples=100)


def test_equal_network_passes_with_no_difference(reference, data):
    result = judge(with_network(reference, scaled(reference, 1)), data)
    (judged,) = result.networks
    assert result.passed
    assert judged.kind == 'int8-uint8'
    assert judged.map50.value == judged.map50_95.value == 0
    assert (judged.map50.low, judged.map50.high) == (0, 0)
    met = judged.agreement
    assert (met.boxes, met.missed, met.extra) == (12, 0, 0)
    assert met.score_error == pytest.approx(0, abs=1e-5)
    assert met.iou == pytest.approx(1, abs=1e-5)
    assert judged.per_class['blue_cone']['map50'] == pytest.approx((0.995, 0.995), abs=0.01)
    assert math.isnan(judged.per_class['orange_cone']['map50'][0])


def test_every_operator_quantised_is_refused(reference, data, tmp_path):
    result = judge(with_network(reference, quantised_everywhere(reference, tmp_path)), data)
    assert not result.passed
    (judged,) = result.networks
    assert any('scores differ by' in failure for failure in judged.failures)


def test_lower_scores_are_refused_though_map_is_the_same(reference, data):
    (judged,) = judge(with_network(reference, scaled(reference, 0.5)), data).networks
    assert judged.map50.value == 0
    assert judged.agreement.score_error > 0.2
    assert len(judged.failures) == 1
    assert 'scores differ by' in judged.failures[0]
    assert 'the limit is 0.05' in judged.failures[0]


def test_lost_class_breaks_map_and_counts_as_missed(reference, data):
    yellow = CLASS_NAMES.index('yellow_cone')
    network = scaled(reference, 0, slice(yellow, yellow + 1))
    (judged,) = judge(with_network(reference, network), data).networks
    assert judged.map50.value == pytest.approx(-0.5, abs=0.01)
    assert judged.map50.low <= judged.map50.value <= judged.map50.high
    assert judged.agreement.missed == 6
    assert any('mAP50 falls by' in failure for failure in judged.failures)


def test_limits_decide(reference, data):
    bundle = with_network(reference, scaled(reference, 0.9))
    assert not judge(bundle, data).passed
    assert judge(bundle, data, GateLimits(score_error=0.2)).passed


def test_network_that_finds_nothing_is_no_reference(reference, data):
    onnx.save(scaled(reference, 0), reference.folder / 'tiny.onnx')
    blind = replace(reference.card.networks[0], sha256=file_sha256(reference.folder / 'tiny.onnx'))
    bundle = Bundle(reference.folder, replace(reference.card, networks=(blind,)))
    (judged,) = judge(with_network(bundle, scaled(bundle, 1)), data).networks
    assert 'FP32 itself finds nothing' in ' '.join(judged.failures)


def test_small_boxes_have_a_limit_of_their_own(tmp_path):
    """In a picture 2720 px wide cones of 32 px are 15 px at 1280."""
    width_px = 85 * CELL_PX
    rows = [in_cells(CELL_PX, width_px, {'blue_cone': 3, 'yellow_cone': 40})]
    data = write_data(tmp_path / 'data', rows)
    folder = write_tiny_bundle(tmp_path / 'bundle', 'anchors', height_px=CELL_PX, width_px=width_px)
    bundle = read_bundle(folder)
    blue = CLASS_NAMES.index('blue_cone')
    bundle = with_network(bundle, scaled(bundle, 0, slice(blue, blue + 1)))
    (judged,) = judge(bundle, data, GateLimits(map50=1, score_error=1)).networks
    assert judged.small_boxes == 2
    assert judged.small_recall.value == pytest.approx(-0.5)
    assert len(judged.failures) == 1
    assert 'recall of boxes under 16 px falls by 0.5' in judged.failures[0]


def test_bfloat16_that_fails_may_not_drive_but_refuses_nothing(reference, data, monkeypatch):
    """On a CPU whose bfloat16 finds nothing; float32 stands for the rest of it."""
    monkeypatch.setattr(gate, 'computes_bfloat16', lambda: True)
    opened = gate.open_network

    class Blind:
        def __init__(self, engine):
            self.info = replace(engine.info, arithmetic='bfloat16')
            self.run, self.close = lambda pictures: engine.run(pictures) * 0, engine.close

    def open_network(bundle, network, name, arithmetic='float32'):
        engine = opened(bundle, network, name)
        return engine if arithmetic == 'float32' else Blind(engine)

    monkeypatch.setattr(gate, 'open_network', open_network)
    bundle = with_network(reference, scaled(reference, 1))
    result = judge(bundle, data)
    verdicts = {judged.kind: (judged.passed, judged.optional) for judged in result.networks}
    assert verdicts == {
        'int8-uint8': (True, False),
        'int8-uint8-bfloat16': (False, True),
        'fp32-float-bfloat16': (False, True),
    }
    assert result.passed
    card = replace(bundle.card, gate=result.card_entry((1, 1)))
    int8 = bundle.network('int8', 'uint8')
    assert card.passed_gate(int8)
    assert not card.passed_gate(int8, 'bfloat16')
    assert not card.passed_gate(bundle.network('fp32', 'float'), 'bfloat16')


def test_bfloat16_of_this_cpu_is_judged(reference, data, monkeypatch):
    if not computes_bfloat16():
        pytest.skip('this CPU does not compute bfloat16')
    monkeypatch.setattr(gate, 'computes_bfloat16', computes_bfloat16)
    result = judge(with_network(reference, scaled(reference, 1)), data)
    errors = {judged.kind: judged.agreement.score_error for judged in result.networks}
    assert errors['int8-uint8'] == pytest.approx(0, abs=1e-5)
    assert 0 < errors['int8-uint8-bfloat16'] < 0.02
    assert 0 < errors['fp32-float-bfloat16'] < 0.02


def test_bundle_without_another_network_is_refused(reference, data):
    with pytest.raises(ModelError, match='no network besides FP32'):
        judge(reference, data)


def test_command_prints_writes_and_fails(reference, data, tmp_path, capsys):
    bundle = with_network(reference, scaled(reference, 0.5))
    words = ['gate', str(bundle.folder), '--data', str(data), '--resamples', '100']
    words += ['--json', str(tmp_path / 'gate.json')]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out
    assert 'All boxes' in out
    stored = json.loads((tmp_path / 'gate.json').read_text())
    assert stored['passed'] is False
    assert stored['networks']['int8-uint8']['per_class']['orange_cone']['map50'] == [None, None]
    assert main([*words, '--limit-score-error', '0.9']) == 0


def test_limits_come_from_the_recipe_and_arguments_win(tmp_path):
    recipe = tmp_path / 'mine.yaml'
    recipe.write_text('extends: two-stage\ngate: {map50: 0.03, score_error: 0.1}\n')
    parser = argparse.ArgumentParser()
    gate.add_limits(parser)
    args = parser.parse_args(['--recipe', str(recipe), '--limit-score-error', '0.02'])
    assert gate.limits_from(args) == GateLimits(map50=0.03, score_error=0.02)
    recipe.write_text('extends: two-stage\ngate: {map55: 0.03}\n')
    with pytest.raises(RecipeError, match='map55'):
        gate.limits_from(args)


def test_card_entry_says_failed(reference, data):
    for factor, verdict in ((1, 'passed'), (0.5, 'FAILED')):
        bundle = with_network(reference, scaled(reference, factor))
        entry = judge(bundle, data).card_entry((89, 120))
        card = replace(bundle.card, gate=entry)
        (bundle.folder / 'card.json').write_text(card.to_json())
        again = read_bundle(bundle.folder).card
        assert again.verdict == verdict
        assert again.gate['int8_convolutions'] == [89, 120]
        assert [again.passed_gate(n) for n in again.networks] == [True, verdict == 'passed']
    assert reference.card.verdict == 'not judged'


def found(*rows: tuple[float, float]) -> Detections:
    """Boxes of 10x10 px at x, all of one class: (x, score)."""
    box = np.array([[x, 0, x + 10, 10] for x, _ in rows], np.float32).reshape(-1, 4)
    score = np.array([score for _, score in rows], np.float32)
    return Detections(box, score, np.zeros(len(rows), np.int64))


@pytest.mark.parametrize(
    ('boxes', 'others', 'counts', 'error'),
    [
        ([(0, 0.8), (50, 0.6)], [(0, 0.7)], (2, 1, 0), (0.1 + 0.6) / 2),
        ([(0, 0.26), (50, 0.24)], [(50, 0.26), (0, 0.24)], (1, 0, 0), 0.02),
        ([(0, 0.8)], [(0, 0.8), (50, 0.5)], (1, 0, 1), 0),
    ],
    ids=['gone: its whole score', 'near the threshold: neither', 'only the other: extra'],
)
def test_missed_and_extra_boxes_are_counted(boxes, others, counts, error):
    met = gate.agreement([found(*boxes)], [found(*others)], 0.25)
    assert (met.boxes, met.missed, met.extra) == counts
    assert met.score_error == pytest.approx(error)
