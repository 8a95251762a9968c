"""benchmarks/demo_weights.py: the shipped model's weights, for whoever is measured beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cone_perception.engines.cpu.open import open_network
from cone_perception.filters import Filters
from cone_perception.model_card import read_bundle, shipped_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.preprocess import to_planes
from cone_perception.types import Frame
from training.simulate.bag import drive_frames
from training.simulate.scene import SimulateSettings

SCRIPT = Path(__file__).parents[1] / 'benchmarks' / 'demo_weights.py'
CONFIDENCE = 0.25


@pytest.mark.slow
def test_ultralytics_finds_with_them_what_the_shipped_network_finds(tmp_path):
    pytest.importorskip('ultralytics')
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics import YOLO

    weights = tmp_path / 'best.pt'
    subprocess.run([sys.executable, str(SCRIPT), '--out', str(weights)], check=True)
    bundle = read_bundle(shipped_bundle())
    engine = open_network(bundle, bundle.network('fp16', 'float'), 'onnxruntime')
    filters = Filters(thresholds=dict.fromkeys(bundle.card.class_names, CONFIDENCE))
    rendered = next(drive_frames(SimulateSettings(), 4, 1.0, 2.0))
    bgr = np.asarray(rendered.image)
    with ConeDetector(bundle.card, engine, 'whole') as detector:
        (expected,), _ = detector.detect([Frame(bgr)], filters)
    (found,) = YOLO(weights).predict(
        bgr, imgsz=640, conf=CONFIDENCE, iou=bundle.card.nms_iou, device='cpu', verbose=False
    )
    assert tuple(found.names.values()) == bundle.card.class_names
    assert len(expected) > 3
    order = np.argsort(-found.boxes.conf.numpy(), kind='stable')
    np.testing.assert_allclose(found.boxes.conf.numpy()[order], expected.score, atol=0.002)
    np.testing.assert_allclose(found.boxes.xyxy.numpy()[order], expected.xyxy_px, atol=0.2)
    assert found.boxes.cls.numpy()[order].astype(int).tolist() == expected.class_id.tolist()


@pytest.mark.slow
def test_weights_to_train_on_compute_the_same(tmp_path):
    torch = pytest.importorskip('torch')
    crops = tmp_path / 'crops'
    crops.mkdir()
    for index, frame in enumerate(drive_frames(SimulateSettings(width_px=320), 3, 2.0, 2.0)):
        cv2.imwrite(str(crops / f'{index}.png'), cv2.resize(frame.image, (320, 320)))
    outputs = []
    for options in ([], ['--train-on', str(crops)]):
        out = tmp_path / f'{len(options)}.pt'
        subprocess.run([sys.executable, str(SCRIPT), '--out', str(out), *options], check=True)
        model = torch.load(out, weights_only=False)['model'].eval()
        model.end2end = False
        with torch.no_grad():
            outputs.append(model(torch.from_numpy(to_planes(cv2.imread(str(crops / '0.png')))))[0])
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    torch.testing.assert_close(*outputs, atol=1e-3, rtol=1e-4)
