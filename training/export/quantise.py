"""FP32 ONNX -> INT8 with explicit quantise/dequantise pairs, in the encoding of each runtime.

Only the inputs and weights of convolutions are quantised: symmetric, per output channel. In float
stay the blocks that lose most by it, all decoding, and attention's matrix products. Biases stay in
float too: TensorRT does not parse quantised ones.

There is one quantisation and two ways to write it. TensorRT takes int8 activations with zero point
0 only, OpenVINO computes that wrongly and takes uint8 with zero point 128: the same real grid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
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

ZERO_POINT = 128
LARGEST = 127


def quantise(original: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """Quantise an FP32 network. Returns it with int8 activations, zero point 0 (TensorRT's).

    The weights are folded: stored as int8 and only dequantised.
    """
    everything = quantise_everything(original, calibration)
    return restore_float(everything, original, kept_by_default(original))


def kept_by_default(original: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay in float unless a search chose others."""
    names = [node.name for node in original.graph.node]
    return [name for name in names if HEAD.match(name) or SENSITIVE_BLOCKS.match(name)]


def quantise_everything(original: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """Quantise every convolution. What must not be is given back by `restore_float`.

    Raises SourceError when the nodes lack the names of an Ultralytics export.
    """
    if not any(HEAD.match(node.name) for node in original.graph.node):
        raise SourceError(
            'the network has no head with the names of an Ultralytics export, so what must stay in '
            'float is unknown. Export it with `cone-training export`.'
        )
    return insert_pairs(original, measure_steps(original, calibration))


def restore_float(
    quantised: onnx.ModelProto, original: onnx.ModelProto, names: Collection[str]
) -> onnx.ModelProto:
    """`original` with the scales of `quantised`, except for the nodes of these names.

    original: what was quantised, or an export of the same weights for another batch. Raises
    SourceError when it has other convolutions.
    """
    steps = steps_of(quantised)
    unknown = steps.keys() - {node.name for node in original.graph.node}
    if unknown:
        raise SourceError(
            f'the network has no node {min(unknown)}, whose scale is known: the two exports are of '
            'different weights.'
        )
    return insert_pairs(original, {k: step for k, step in steps.items() if k not in names})


def measure_steps(original: onnx.ModelProto, calibration: Calibration) -> dict[str, float]:
    """Convolution -> size of a step of its input, from the largest value in any picture."""
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
    for node in original.graph.node:
        if node.op_type == 'Conv':
            limits = [float(np.abs(end).max()) for end in ranges[node.input[0]].range_value]
            steps[node.name] = float(_steps(np.array(max(limits))))
    return steps


def steps_of(quantised: onnx.ModelProto) -> dict[str, float]:
    """Quantised convolution -> size of a step of its input, as the network has it."""
    stored = {tensor.name: tensor for tensor in quantised.graph.initializer}
    scale = {
        node.output[0]: float(numpy_helper.to_array(stored[node.input[1]]))
        for node in quantised.graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] not in stored
    }
    return {
        node.name: scale[node.input[0]]
        for node in quantised.graph.node
        if node.op_type == 'Conv' and node.input[0] in scale
    }


def insert_pairs(original: onnx.ModelProto, steps: Mapping[str, float]) -> onnx.ModelProto:
    """A network whose convolutions take int8 inputs and weights.

    steps: convolution -> size of a step of its input; others stay as they are.
    """
    network = onnx.ModelProto()
    network.CopyFrom(original)
    graph = network.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    added: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    pairs: set[str] = set()

    def store(name: str, value: Float32) -> str:
        added[name] = numpy_helper.from_array(value, name)
        return name

    zero = 'zero_point_int8'
    for node in graph.node:
        if node.op_type == 'Conv' and node.name in steps:
            taken, weight = node.input[0], node.input[1]
            if taken not in pairs:
                pairs.add(taken)
                store(zero, np.array(0, np.int8))
                scale = store(f'{taken}_scale', np.array(steps[node.name], np.float32))
                nodes += [
                    helper.make_node(
                        'QuantizeLinear',
                        [taken, scale, zero],
                        [f'{taken}_quantised'],
                        f'{taken}_QuantizeLinear',
                    ),
                    helper.make_node(
                        'DequantizeLinear',
                        [f'{taken}_quantised', scale, zero],
                        [f'{taken}_dequantised'],
                        f'{taken}_DequantizeLinear',
                    ),
                ]
            if f'{weight}_int8' not in added:
                floats = numpy_helper.to_array(weights[weight])
                per_channel = _steps(np.abs(floats).reshape(len(floats), -1).max(axis=1))
                shape = (-1,) + (1,) * (floats.ndim - 1)
                whole = np.round(floats / per_channel.reshape(shape))
                store(f'{weight}_int8', np.clip(whole, -LARGEST, LARGEST).astype(np.int8))
                store(f'{weight}_scale', per_channel)
                store(f'{weight}_zero', np.zeros(len(floats), np.int8))
                nodes.append(
                    helper.make_node(
                        'DequantizeLinear',
                        [f'{weight}_int8', f'{weight}_scale', f'{weight}_zero'],
                        [f'{weight}_dequantised'],
                        f'{weight}_DequantizeLinear',
                        axis=0,
                    )
                )
            node.input[0], node.input[1] = f'{taken}_dequantised', f'{weight}_dequantised'
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added.values())
    remove_unused(graph)
    return network


def encode_uint8(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with its activations as uint8 and zero point 128 (OpenVINO's)."""
    encoded = onnx.ModelProto()
    encoded.CopyFrom(network)
    graph = encoded.graph
    # A zero point may be shared between activations and weights, and weights stay int8.
    taken = [node for node in graph.node if node.op_type == 'QuantizeLinear']
    activations = {node.output[0] for node in taken}
    graph.initializer.append(
        numpy_helper.from_array(np.array(ZERO_POINT, np.uint8), 'zero_point_uint8')
    )
    for node in graph.node:
        if node.op_type == 'QuantizeLinear' or (
            node.op_type == 'DequantizeLinear' and node.input[0] in activations
        ):
            node.input[2] = 'zero_point_uint8'
    remove_unused(graph)
    del graph.value_info[:]  # the types written there are the int8 ones
    onnx.checker.check_model(encoded, full_check=True)
    return encoded


def quantised_share(network: onnx.ModelProto) -> tuple[int, int]:
    """How many convolutions take quantised inputs, and how many there are."""
    dequantised = {
        node.output[0] for node in network.graph.node if node.op_type == 'DequantizeLinear'
    }
    convolutions = [node for node in network.graph.node if node.op_type == 'Conv']
    return sum(node.input[0] in dequantised for node in convolutions), len(convolutions)


def remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes that nothing reads, then the tensors that nothing reads."""
    outputs = {output.name for output in graph.output}
    while True:
        used = outputs.union(*(node.input for node in graph.node))
        nodes = [node for node in graph.node if used.intersection(node.output)]
        if len(nodes) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(nodes)
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _steps(largest: Float32) -> Float32:
    """Size of a step so that the largest value is within 127 of them.

    Rounded up to what FP16 can hold, so that a file with FP16 scales has the very same grid.
    """
    exact = np.asarray(largest, np.float64) / LARGEST
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
