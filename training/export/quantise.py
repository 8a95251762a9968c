"""FP32 ONNX -> INT8 with explicit quantise/dequantise pairs, in the encoding of each runtime.

Only the inputs and weights of convolutions are quantised: symmetric, weights per output channel. In
float stay the blocks that lose most by it, all decoding, and attention's matrix products. Biases
stay in float too: TensorRT does not parse quantised ones.

A quantisation is a step size for the input of each convolution. It is measured once, and written
in two encodings. TensorRT takes int8 inputs with zero point 0 only. OpenVINO computes that wrongly
and takes uint8 with zero point 128: the same grid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from tqdm import tqdm

from cone_perception.errors import SourceError
from cone_perception.types import Float32
from training.export.calibration import Calibration

SENSITIVE_BLOCKS = re.compile(r'/model\.([0-2]|4|16)/')
HEAD = re.compile(r'/model\.\d+/((one2one_)?cv[23]\.\d+/|dfl/)')
"""Names of nodes in an Ultralytics export that stay in float.

Measured on the demo model: with both in float the scores' error is a third of what it is with the
head and blocks 0 to 2, see docs/demo_model.md.
"""

LAST = re.compile(r'/model\.\d+/((one2one_)?cv[23]\.\d+/([\w.]*\.)?2/|dfl/)')
"""The head's last convolutions and the boxes' distribution: no search quantises them.

Quantised too, they took a YOLO12n from .3908 to .3767 mAP50-95.
"""

Int8Encoding = Literal['int8', 'uint8']
Steps = Mapping[str, float]
"""Name of a convolution -> step size of its input."""

LARGEST_INPUT = 127
LARGEST_WEIGHT: Mapping[Int8Encoding, int] = {'int8': 127, 'uint8': 63}
"""Largest stored weight: 8 bits for GPUs, 7 for CPUs.

A CPU without VNNI adds two products of uint8 and int8 in 16 bits. 255 x 63 x 2 = 32,130 fits,
255 x 127 x 2 does not and is cut off at 32,767.
"""

ZERO_POINT: Mapping[Int8Encoding, NDArray[np.generic]] = {
    'int8': np.array(0, np.int8),
    'uint8': np.array(128, np.uint8),
}


def kept_by_default(original: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay in float unless a search chose others."""
    names = [node.name for node in original.graph.node]
    return [name for name in names if HEAD.match(name) or SENSITIVE_BLOCKS.match(name)]


def convolutions_of(network: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in network.graph.node if node.op_type == 'Conv']


def measure_steps(original: onnx.ModelProto, calibration: Calibration) -> dict[str, float]:
    """Step size of every convolution's input, from the largest value in any picture.

    Raises SourceError when the nodes lack the names of an Ultralytics export.
    """
    if not any(HEAD.match(node.name) for node in original.graph.node):
        raise SourceError(
            'the network has no head with the names of an Ultralytics export, so what must stay in '
            'float is unknown. Export it with `cone-training export`.'
        )
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'network.onnx'
        onnx.save(original, path)
        calibrator = create_calibrator(
            path,
            ['Conv'],
            str(Path(folder) / 'observed.onnx'),
            CalibrationMethod.MinMax,
            extra_options={'symmetric': True},
        )
        calibrator.collect_data(_Reader(original.graph.input[0].name, calibration))
        ranges = dict(calibrator.compute_data().items())
    steps = {}
    for node in convolutions_of(original):
        limits = [float(np.abs(end).max()) for end in ranges[node.input[0]].range_value]
        steps[node.name] = float(_step_sizes(np.array(max(limits)), LARGEST_INPUT))
    return steps


def steps_of(quantised: onnx.ModelProto) -> dict[str, float]:
    """Step size of the input of each quantised convolution, as the network stores it."""
    stored = {tensor.name: tensor for tensor in quantised.graph.initializer}
    scale = {
        node.output[0]: float(numpy_helper.to_array(stored[node.input[1]]))
        for node in quantised.graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] not in stored
    }
    convolutions = convolutions_of(quantised)
    return {n.name: scale[n.input[0]] for n in convolutions if n.input[0] in scale}


def quantise(
    original: onnx.ModelProto, steps: Steps, encoding: Int8Encoding = 'int8'
) -> onnx.ModelProto:
    """Quantise the convolutions that have a step size. The others stay in float.

    original: the FP32 network that the steps were measured on, or an export of the same weights
    for another batch. Weights are stored as int8 and only dequantised. Raises SourceError when a
    step belongs to no convolution of this network.
    """
    unknown = steps.keys() - {node.name for node in convolutions_of(original)}
    if unknown:
        raise SourceError(
            f'the network has no node {min(unknown)}, whose scale is known: the two exports are of '
            'different weights.'
        )
    network = onnx.ModelProto()
    network.CopyFrom(original)
    graph = network.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    added: dict[str, NDArray[np.generic]] = {'zero_point': ZERO_POINT[encoding]}
    nodes: list[onnx.NodeProto] = []

    def dequantise(stored: str, real: str, zero: str, **attributes: int) -> None:
        inputs = [stored, f'{real}_scale', zero]
        outputs = [f'{real}_dequantised']
        name = f'{real}_DequantizeLinear'
        nodes.append(helper.make_node('DequantizeLinear', inputs, outputs, name, **attributes))

    for node in graph.node:
        if node.name in steps:
            taken, weight = node.input[0], node.input[1]
            if f'{taken}_scale' not in added:
                added[f'{taken}_scale'] = np.array(steps[node.name], np.float32)
                inputs = [taken, f'{taken}_scale', 'zero_point']
                whole = f'{taken}_quantised'
                nodes.append(
                    helper.make_node('QuantizeLinear', inputs, [whole], f'{taken}_QuantizeLinear')
                )
                dequantise(whole, taken, 'zero_point')
            if f'{weight}_int8' not in added:
                whole_weights, scale = _quantise_weights(weights[weight], LARGEST_WEIGHT[encoding])
                added[f'{weight}_int8'], added[f'{weight}_scale'] = whole_weights, scale
                added[f'{weight}_zero'] = np.zeros(len(scale), np.int8)
                dequantise(f'{weight}_int8', weight, f'{weight}_zero', axis=0)
            node.input[0], node.input[1] = f'{taken}_dequantised', f'{weight}_dequantised'
        nodes.append(node)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in added.items())
    return with_nodes(network, nodes)


def with_nodes(network: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
    """Give a network these nodes, without those and the tensors that nothing reads; check it."""
    graph, nodes = network.graph, list(nodes)
    outputs = {output.name for output in graph.output}
    while True:
        used = outputs.union(*(node.input for node in nodes))
        needed = [node for node in nodes if used.intersection(node.output)]
        if len(needed) == len(nodes):
            break
        nodes = needed
    del graph.node[:]
    graph.node.extend(nodes)
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    onnx.checker.check_model(network, full_check=True)
    return network


def _quantise_weights(weights: Float32, largest: int) -> tuple[NDArray[np.int8], Float32]:
    """Whole weights within +-largest, and the step size of each output channel."""
    steps = _step_sizes(np.abs(weights).reshape(len(weights), -1).max(axis=1), largest)
    whole = np.round(weights / steps.reshape(-1, *[1] * (weights.ndim - 1)))
    return np.clip(whole, -largest, largest).astype(np.int8), steps


def _step_sizes(greatest: Float32, count: int) -> Float32:
    """Step sizes of which `count` reach the greatest value.

    They are rounded up to what FP16 can hold, so that a file with FP16 scales has the same grid.
    """
    exact = np.asarray(greatest, np.float64) / count
    half = exact.astype(np.float16)
    half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    least = np.finfo(np.float16).smallest_subnormal
    steps: Float32 = np.maximum(half, least).astype(np.float32)
    return steps


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, input_name: str, calibration: Calibration) -> None:
        pictures = tqdm(
            calibration, desc='calibrate', unit='picture', total=len(calibration.pictures)
        )
        self._inputs = ({input_name: picture} for picture in pictures)

    def get_next(self) -> dict[str, Float32] | None:
        return next(self._inputs, None)
