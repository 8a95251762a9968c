"""Every exported network compiles for the car's GPU, and what is called INT8 computes in INT8.

NVIDIA's own compiler, TensorRT-RTX, on the CPU. Random weights: what a layer becomes does not
depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('tensorrt_rtx_bindings')
pytest.importorskip('ultralytics')
pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')

from tiny_network import quantised_share  # noqa: E402

from cone_perception.engines.tensorrt.compile_process import compile_network  # noqa: E402
from training.export.calibration import Calibration  # noqa: E402
from training.export.networks import export_onnx  # noqa: E402
from training.export.quantise import (  # noqa: E402
    convert_to_half,
    decoding_nodes,
    measure_steps,
    quantise,
)
from training.export.sensitivity import steps_without, usual_float_blocks  # noqa: E402
from training.ultralytics_cpu import prepare_ultralytics  # noqa: E402

HEIGHT_PX, WIDTH_PX = 96, 160
CAR = 'SM89'  # the RTX 4060
NETWORKS = ('yolo11n', 'yolo12n', 'yolo26n')
LEAST_INT8 = {'yolo11n': 40, 'yolo12n': 75, 'yolo26n': 50}
"""So many of 88, 120 and 102 convolutions lie outside of the head and the first blocks."""


@pytest.fixture(scope='session')
def exports(tmp_path_factory):
    """Network -> (precision, batch) -> ONNX model."""
    return Exports(tmp_path_factory.mktemp('exports'))


class Exports(dict):
    """Makes an entry when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Mapping[tuple, onnx.ModelProto]:
        self[name] = export_variants(name, self.folder)
        return self[name]


def export_variants(name: str, folder: Path) -> dict[tuple, onnx.ModelProto]:
    prepare_ultralytics()
    from ultralytics import YOLO

    weights = folder / f'{name}.pt'
    YOLO(f'{name}.yaml', task='detect').save(weights)
    originals = {}
    layout = 'end_to_end' if name == 'yolo26n' else 'anchors'
    for batch in (1, 2):
        place = folder / f'{name}-b{batch}'
        place.mkdir()
        path = export_onnx(weights, place, HEIGHT_PX, WIDTH_PX, layout, batch)
        originals[batch] = onnx.load(path)
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    cv2.imwrite(str(folder / 'picture.png'), picture)
    calibration = Calibration((folder / 'picture.png',), HEIGHT_PX, WIDTH_PX)
    measured = measure_steps(originals[1], calibration)
    steps = steps_without(measured, originals[1], usual_float_blocks(originals[1]))
    variants = {}
    for batch, original in originals.items():
        decoding = decoding_nodes(original)
        quantised = quantise(original, steps)
        variants['fp16', batch] = convert_to_half(original, decoding)
        variants['int8', batch] = quantised
        variants['int8 and fp16', batch] = convert_to_half(quantised, decoding)
    return variants


@pytest.mark.slow
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('precision', ['int8', 'fp16', 'int8 and fp16'])
@pytest.mark.parametrize('name', NETWORKS)
def test_every_convolution_computes_as_its_file_says(exports, name, precision, batch):
    network = exports[name][precision, batch]
    quantised, convolutions = quantised_share(network)
    compiled = compile_network(
        network.SerializeToString(), 'tensorrt_rtx', CAR, 'fp16' if precision == 'fp16' else 'int8'
    )
    found = dict(compiled.convolutions)
    assert found.pop('int8', 0) == quantised
    if precision == 'fp16':
        assert quantised == 0
    else:
        assert quantised >= LEAST_INT8[name]
    # What decodes the boxes stays FP32: one convolution of YOLO11 and YOLO12, none of YOLO26.
    allowed = {'fp32'} if precision == 'int8' else {'fp16', 'fp32'}
    assert set(found) <= allowed
    assert sum(found.values()) == convolutions - quantised
    if precision != 'int8':
        assert found.get('fp32', 0) <= 1
