"""From weights to a bundle that the runtime loads: every network, the evidence, the verdict."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip('ultralytics')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from planted_data import write_data_yaml, write_split
from tiny_network import write_tiny_bundle
from tiny_yolo import write_architecture
from watched import can_trace, reached

from cone_perception.engines.check import read_reference, run_all
from cone_perception.engines.cpu.open import computes_bfloat16, open_network
from cone_perception.engines.open import open_engine
from cone_perception.engines.tensorrt import gpu
from cone_perception.errors import EngineError, ModelError, SettingsError, SourceError
from cone_perception.model_card import Bundle, file_sha256, read_bundle
from training.cli import main
from training.export import export
from training.export.calibration import ENOUGH_PICTURES, LEAST_PICTURES, choose_pictures
from training.export.networks import NETWORKS
from training.export.sensitivity import score_error
from training.ultralytics_cpu import prepare_ultralytics

HEIGHT_PX, WIDTH_PX = 96, 160


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A network with both heads that scores every place about 0.6: enough to compare."""
    import torch

    folder = tmp_path_factory.mktemp('weights')
    prepare_ultralytics()
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(write_architecture(folder, classes=2, width=0.5), task='detect')
    model.model.names = {0: 'blue_cone', 1: 'yellow_cone'}
    head = model.model.model[-1]
    for branches in (head.cv3, head.one2one_cv3):
        for branch in branches:
            branch[-1].bias.data[:] = torch.tensor([0.4, 0.2])
    model.save(folder / 'tiny.pt')
    return folder / 'tiny.pt'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """100 pictures to calibrate with, 3 to judge on, 2 of test."""
    root = tmp_path_factory.mktemp('data')
    random = np.random.default_rng(0)
    counts = {'train': LEAST_PICTURES, 'val': 3, 'test': 2}
    for split, count in counts.items():
        coarse = random.integers(0, 256, (count, 9, 16, 3), np.uint8)
        pictures = [cv2.resize(each, (160, 90)) for each in coarse]
        labels = [f'{index % 2} 0.5 0.5 0.2 0.4\n' for index in range(count)]
        write_split(root, split, zip(pictures, labels, strict=True))
    names = 'blue_cone', 'yellow_cone'
    write_data_yaml(root, names, **{split: f'{split}/images' for split in counts})
    return root


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return parser.parse_args(arguments)


def run_export(weights: Path, out: Path, *more: str) -> Path:
    size = '--imgsz', str(HEIGHT_PX), str(WIDTH_PX)
    asked = parse(str(weights), '--out', str(out), '--resamples', '100', *more, *size)
    assert export.run(asked) == 0
    return out


def outputs_of(bundle: Bundle) -> dict[str, np.ndarray]:
    """Network file -> outputs for the bundle's reference pictures."""
    pictures, _ = read_reference(bundle)
    found = {}
    for network in bundle.card.networks:
        name = 'openvino' if network.encoding == 'uint8' else 'onnxruntime'
        engine = open_network(bundle, network, name)
        found[network.file] = run_all(engine, pictures)
        engine.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
def test_every_network_of_a_bundle_answers_alike(tmp_path, weights, data, layout):
    asked = ['--data', str(data), '--layout', layout, '--keep-float', 'model.0']
    asked += ['--views', 'whole+horizon', '--view-threshold', 'horizon:blue_cone=0.4']
    folder = run_export(weights, tmp_path / 'bundle', *asked)
    bundle = read_bundle(folder)
    assert bundle.card.output_layout == layout
    assert bundle.card.class_names == ('blue_cone', 'yellow_cone')
    kinds = {(n.precision, n.encoding, n.batch) for n in bundle.card.networks}
    assert kinds == {
        (precision, encoding, batch)
        for precision, encoding in NETWORKS.values()
        for batch in (1, 2)
    }
    _, reference = read_reference(bundle)
    for file, outputs in outputs_of(bundle).items():
        for expected, found in zip(reference, outputs, strict=True):
            assert score_error(expected, found, layout) < (0.002 if 'fp' in file else 0.03), file
    card = bundle.card
    assert card.verdict == 'passed'
    assert card.views == card.gate['views'] == card.calibration['views'] == 'whole+horizon'
    assert card.view_thresholds == {'horizon': {'blue_cone': 0.4}}
    in_bfloat16 = {'int8-uint8-bfloat16', 'fp16-float-bfloat16'} if computes_bfloat16() else set()
    assert set(card.gate['figures']) == {'fp16-float', 'int8-uint8', 'int8-int8'} | in_bfloat16
    assert card.gate['pictures'] == 3
    quantised, all_of_them = card.gate['int8_convolutions']
    assert 0 < quantised < all_of_them
    for name, sha256 in card.other_files.items():
        assert file_sha256(folder / name) == sha256
    assert set(card.other_files) == {'LICENSE', 'calibration.txt', 'gate.json', 'reference.npz'}
    listed = {network.file for network in card.networks} | set(card.other_files) | {'card.json'}
    assert listed == {path.name for path in folder.iterdir()}
    assert card.calibration['count'] == LEAST_PICTURES
    assert len((folder / 'calibration.txt').read_text().splitlines()) == LEAST_PICTURES
    engine = open_engine(bundle, batch=2)
    assert (engine.info.precision, engine.info.input_shape[0]) == ('int8', 2)
    engine.close()


@pytest.mark.slow
def test_refused_model_leaves_no_bundle_and_force_says_failed(tmp_path, weights, data, capsys):
    asked = ['--data', str(data), '--networks', 'int8-uint8', '--limit-score-error', '0']
    asked += ['--keep-float', 'none']
    with pytest.raises(ModelError, match=r'the gate refuses .* int8-uint8: scores differ by'):
        run_export(weights, tmp_path / 'bundle', *asked)
    assert list(tmp_path.iterdir()) == []
    folder = run_export(weights, tmp_path / 'bundle', *asked, '--force')
    card = read_bundle(folder).card
    assert card.verdict == 'FAILED'
    assert [network.file for network in card.networks] == [
        'int8-uint8.onnx', 'int8-uint8-batch2.onnx',
    ]  # fmt: skip
    assert not card.passed_gate(card.networks[0])
    assert json.loads((folder / 'gate.json').read_text())['passed'] is False
    assert 'FAILED, bundled all the same' in capsys.readouterr().err


@pytest.mark.slow
def test_search_leaves_its_evidence(tmp_path, weights, data):
    folder = run_export(
        weights, tmp_path / 'bundle', '--data', str(data), '--sensitivity',
        '--networks', 'int8-uint8', '--batches', '1',
    )  # fmt: skip
    card = read_bundle(folder).card
    stored = json.loads((folder / 'sensitivity.json').read_text())
    assert stored['kept_in_float'] == card.training['kept_in_float']
    assert {'model.0', 'model.1', 'model.2'} <= {block['block'] for block in stored['blocks']}
    assert {'sensitivity.json', 'sensitivity.html'} < set(card.other_files)
    assert card.verdict == 'passed'


@pytest.mark.slow
def test_bundle_called_int8_without_any_is_refused(tmp_path, weights, data):
    """The blocks that stay in float by default are all that this network has."""
    asked = ['--calibration', str(data / 'train'), '--networks', 'int8-uint8', '--batches', '1']
    with pytest.raises(ModelError, match='would be INT8: all its blocks stay in float'):
        run_export(weights, tmp_path / 'bundle', *asked)


@pytest.mark.slow
def test_card_holds_what_was_asked_for(tmp_path, weights, data):
    (tmp_path / 'training.json').write_text('{"pictures": 7}')
    folder = run_export(
        weights, tmp_path / 'bundle', '--calibration', str(data / 'train'),
        '--networks', 'int8-uint8', '--batches', '1', '--name', 'mine',
        '--threshold', 'yellow_cone=0.4', '--training', str(tmp_path / 'training.json'),
        '--keep-float', 'model.0',
    )  # fmt: skip
    card = read_bundle(folder).card
    assert sorted(path.name for path in folder.iterdir()) == [
        'LICENSE', 'calibration.txt', 'card.json', 'int8-uint8.onnx', 'reference.npz',
    ]  # fmt: skip
    assert card.name == 'mine'
    assert card.thresholds == {'blue_cone': 0.25, 'yellow_cone': 0.4}
    assert card.licence == 'AGPL-3.0-only'
    assert card.training['pictures'] == 7
    assert card.training['weights_sha256'] == file_sha256(weights)
    assert card.training['kept_in_float'] == ['model.0']
    assert card.verdict == 'not judged'
    assert json.loads((folder / 'card.json').read_text())['height_px'] == HEIGHT_PX


def test_missing_weights_are_refused_before_anything_is_looked_up(tmp_path, data):
    with pytest.raises(SourceError, match=r'yolo12n\.pt is no file of weights'):
        run_export(tmp_path / 'yolo12n.pt', tmp_path / 'bundle', '--data', str(data))


def test_pictures_must_be_given():
    with pytest.raises(SettingsError, match='give --data'):
        export.run(parse('best.pt'))
    with pytest.raises(SettingsError, match='--sensitivity searches against the gate'):
        export.run(parse('best.pt', '--calibration', 'pictures', '--sensitivity'))


@pytest.mark.parametrize('entry', ['--training', '--metrics'])
@pytest.mark.parametrize('content', [None, b'{"pictures": ', b'[1]', b'\xff'])
def test_broken_entry_for_the_card_is_told_in_a_sentence(tmp_path, capsys, entry, content):
    path = tmp_path / 'entry.json'
    if content is not None:
        path.write_bytes(content)
    words = ['export', 'best.pt', '--calibration', str(tmp_path), entry, str(path)]
    assert main(words) == 1
    assert f'{path} is no JSON file for the card: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('width_px', 'height_px', 'expected'),
    [(1280, 720, (384, 640)), (1920, 1080, (384, 640)), (640, 480, (480, 640))],
)
def test_input_is_the_letterbox_of_the_camera(tmp_path, width_px, height_px, expected):
    settings = {'expected_width_px': width_px, 'expected_height_px': height_px}
    path = tmp_path / 'camera.yaml'
    path.write_text(yaml.safe_dump({'/**': {'ros__parameters': settings}}))
    assert export.letterbox_of(path) == expected
    assert export.letterbox_of(None) == (384, 640)


def test_settings_without_a_size_are_refused(tmp_path):
    path = tmp_path / 'camera.yaml'
    for text, refusal in (
        ('{}', 'has parameters of 0 nodes'),
        ('/**: {ros__parameters: {cameras: [left]}}', 'does not say how large the pictures are'),
        ('nonsense', 'is no file of ROS parameters'),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=refusal):
            export.letterbox_of(path)


def test_folder_with_something_else_is_not_overwritten(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    refusal = 'holds something that is no model bundle'
    with pytest.raises(SettingsError, match=refusal), export.draft_of(tmp_path):
        pass
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_old_bundle_is_replaced_only_when_all_went_well(tmp_path):
    out = tmp_path / 'bundle'
    out.mkdir()
    (out / 'card.json').write_text('old')
    with contextlib.suppress(RuntimeError), export.draft_of(out) as draft:
        (draft / 'card.json').write_text('half')
        raise RuntimeError
    assert (out / 'card.json').read_text() == 'old'
    with export.draft_of(out) as draft:
        (draft / 'card.json').write_text('new')
    assert (out / 'card.json').read_text() == 'new'
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize('count', [LEAST_PICTURES - 1, LEAST_PICTURES, ENOUGH_PICTURES])
def test_few_calibration_pictures_are_refused_or_warned_about(tmp_path, count, capsys):
    for index in range(count):
        (tmp_path / f'{index}.png').write_bytes(b'')
    asked = None, 'train', tmp_path, ENOUGH_PICTURES, 96, 160
    if count < LEAST_PICTURES:
        with pytest.raises(SettingsError, match='99 calibration pictures are too few'):
            choose_pictures(*asked)
        return
    assert len(choose_pictures(*asked).pictures) == count
    assert ('Only 100' in capsys.readouterr().err) == (count < ENOUGH_PICTURES)


def test_engine_that_cannot_be_built_leaves_the_bundle_and_says_what_to_run(tmp_path, monkeypatch):
    """Without a compiler, as on most machines that train on a CPU."""
    monkeypatch.setattr(gpu, 'MODULES', {'tensorrt': ('not_there',), 'tensorrt_rtx': ('nor_it',)})
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    with pytest.raises(ModelError) as refusal:
        export.build_engines(bundle, [1, 2])
    assert 'is made, but its engine cannot be built here' in str(refusal.value)
    assert f'cone-perception build-engine {bundle}' in str(refusal.value)
    assert isinstance(refusal.value.__cause__, EngineError)


def test_engines_are_built_for_each_batch(tmp_path, monkeypatch):
    from cone_perception.engines import build_command as build_engine

    built: list[tuple[Path, int]] = []
    monkeypatch.setattr(build_engine, 'run', lambda args: built.append((args.bundle, args.batch)))
    export.build_engines(tmp_path, [2, 1])
    assert built == [(tmp_path, 1), (tmp_path, 2)]


@pytest.mark.slow
def test_export_reaches_nobody(tmp_path, weights, data):
    size = '--imgsz', str(HEIGHT_PX), str(WIDTH_PX)
    given = (
        str(weights),
        '--data',
        str(data),
        '--out',
        'bundle',
        '--resamples',
        '100',
        *size,
        '--keep-float',
        'model.0',
    )
    command = [sys.executable, '-m', 'training.cli', 'export', *given]
    assert reached(tmp_path, command, can_trace(), CI='', CUDA_VISIBLE_DEVICES='') == []
    assert (tmp_path / 'bundle' / 'card.json').is_file()
