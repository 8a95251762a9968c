"""From weights to a bundle that the runtime loads, in both layouts of the output."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('ultralytics')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from tiny_yolo import write_architecture

from cone_perception.engines import open_engine
from cone_perception.errors import SourceError
from cone_perception.model_card import file_sha256, read_bundle
from training import export
from training.ultralytics_cpu import prepare_ultralytics


def make_weights(folder: Path) -> Path:
    prepare_ultralytics()
    from ultralytics import YOLO

    model = YOLO(write_architecture(folder, classes=2, width=0.5), task='detect')
    model.model.names = {0: 'blue_cone', 1: 'yellow_cone'}
    model.save(folder / 'tiny.pt')
    return folder / 'tiny.pt'


def run_export(weights: Path, folder: Path, *more: str) -> Path:
    random = np.random.default_rng(0)
    pictures = folder / 'pictures'
    pictures.mkdir(exist_ok=True)
    for index in range(4):
        picture = random.integers(0, 256, (90, 160, 3), np.uint8)
        cv2.imwrite(str(pictures / f'{index}.png'), picture)
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    arguments = [str(weights), '--calibration', str(pictures), '--calibration-count', '4']
    arguments += ['--out', str(folder / 'bundle'), '--imgsz', '96', '160', *more]
    assert export.run(parser.parse_args(arguments)) == 0
    return folder / 'bundle'


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
def test_exported_bundle_runs_alike_in_every_precision(tmp_path: Path, layout: str) -> None:
    folder = run_export(make_weights(tmp_path), tmp_path, '--layout', layout)
    bundle = read_bundle(folder)
    assert bundle.card.output_layout == layout
    assert bundle.card.class_names == ('blue_cone', 'yellow_cone')
    assert {network.file for network in bundle.card.networks} == {
        'fp32.onnx',
        'int8-uint8.onnx',
        'int8-int8.onnx',
    }
    picture = cv2.imread(str(tmp_path / 'pictures' / '0.png'))
    pictures = np.full((1, 96, 160, 3), 114, np.uint8)
    pictures[0, 3:93] = picture
    answers = []
    for name, precision in (
        ('onnxruntime', 'fp32'),
        ('onnxruntime', 'int8'),
        ('openvino', 'int8'),
    ):
        engine = open_engine(bundle, name, precision=precision)
        answers.append(engine.run(pictures).copy())
        engine.close()
    reference = answers[0]
    for answer in answers[1:]:
        assert answer.shape == reference.shape
        if layout == 'anchors':
            error = answer[0, 4:] - reference[0, 4:]
        else:
            error = answer[0, :, 4] - reference[0, :, 4]
        assert np.abs(error).max() < 0.05


@pytest.mark.slow
def test_card_holds_what_was_asked_for(tmp_path: Path) -> None:
    weights = make_weights(tmp_path)
    (tmp_path / 'training.json').write_text('{"pictures": 7}')
    folder = run_export(
        weights, tmp_path, '--networks', 'int8-uint8', '--name', 'mine', '--threshold',
        'yellow_cone=0.4', '--training', str(tmp_path / 'training.json'),
    )  # fmt: skip
    card = read_bundle(folder).card
    assert sorted(path.name for path in folder.iterdir()) == [
        'LICENSE', 'card.json', 'int8-uint8.onnx',
    ]  # fmt: skip
    assert card.name == 'mine'
    assert card.thresholds == {'blue_cone': 0.25, 'yellow_cone': 0.4}
    assert card.licence == 'AGPL-3.0-only'
    assert card.training['pictures'] == 7
    assert card.training['weights_sha256'] == file_sha256(weights)
    assert json.loads((folder / 'card.json').read_text())['height_px'] == 96


def test_missing_weights_are_refused_before_anything_is_looked_up(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'yolo12n\.pt is no file of weights'):
        run_export(tmp_path / 'yolo12n.pt', tmp_path)
