"""FP32 ONNX -> INT8 with explicit quantise/dequantise pairs, in the encoding of each runtime; FP16.

Only the inputs and weights of convolutions are quantised: symmetric, weights per output channel. In
float stay the blocks that lose most by it, all decoding, and attention's matrix products. Biases
stay in float too: TensorRT does not parse quantised ones.

A quantisation is a step size for the input of each convolution. It is measured once, and written
in two encodings. TensorRT takes int8 inputs with zero point 0 only. OpenVINO computes that wrongly
and takes uint8 with zero point 128: the same grid.

FP16 takes the place of FP32, typed as TensorRT takes it. Inputs, outputs and the decoding of boxes
stay FP32: at 640 pixels FP16 counts in halves of a pixel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod
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

LARGEST_WEIGHT: Mapping[Int8Encoding, int] = {'int8': 127, 'uint8': 63}
"""Largest stored weight: 8 bits for GPUs, 7 for CPUs.

A CPU without VNNI adds two products of uint8 and int8 in 16 bits. 255 x 63 x 2 = 32,130 fits,
255 x 127 x 2 does not and is cut off at 32,767.
"""

OPSET = 19
"""The first in which the scales of INT8 may be FP16, as TensorRT wants them beside FP16 layers."""


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
        name = original.graph.input[0].name
        pictures = tqdm(calibration, 'calibrate', len(calibration.pictures), unit='picture')
        inputs = ({name: picture} for picture in pictures)
        calibrator.collect_data(SimpleNamespace(get_next=lambda: next(inputs, None)))
        ranges = dict(calibrator.compute_data().items())
    greatest = {
        n.name: np.abs(ranges[n.input[0]].range_value).max() for n in convolutions_of(original)
    }
    return {name: float(_step_sizes(value, 127)) for name, value in greatest.items()}


def steps_of(quantised: onnx.ModelProto) -> dict[str, float]:
    """Step size of the input of each quantised convolution, as the network stores it."""
    stored = {tensor.name: tensor for tensor in quantised.graph.initializer}
    scale = {
        node.output[0]: float(numpy_helper.to_array(stored[node.input[1]]))
        for node in quantised.graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] not in stored
    }
    return {n.name: scale[n.input[0]] for n in convolutions_of(quantised) if n.input[0] in scale}


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
    network = deepcopy(original)
    graph = network.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zero_point = np.array(0, np.int8) if encoding == 'int8' else np.array(128, np.uint8)
    added: dict[str, NDArray[np.generic]] = {'zero_point': zero_point}
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, taken: str, made: str, real: str, zero: str, **axis: int) -> None:
        inputs = [taken, f'{real}_scale', zero]
        nodes.append(helper.make_node(operator, inputs, [made], f'{real}_{operator}', **axis))

    for node in graph.node:
        if node.name in steps:
            taken, weight = node.input[0], node.input[1]
            if f'{taken}_scale' not in added:
                added[f'{taken}_scale'] = np.array(steps[node.name], np.float32)
                whole = f'{taken}_quantised'
                add('QuantizeLinear', taken, whole, taken, 'zero_point')
                add('DequantizeLinear', whole, f'{taken}_dequantised', taken, 'zero_point')
            if f'{weight}_int8' not in added:
                real, largest = weights[weight], LARGEST_WEIGHT[encoding]
                scale = _step_sizes(np.abs(real).reshape(len(real), -1).max(axis=1), largest)
                whole_steps = np.round(real / scale.reshape(-1, *[1] * (real.ndim - 1)))
                added[f'{weight}_int8'] = whole_steps.clip(-largest, largest).astype(np.int8)
                added[f'{weight}_scale'] = scale
                added[f'{weight}_zero'] = np.zeros(len(scale), np.int8)
                inputs = f'{weight}_int8', f'{weight}_dequantised', weight, f'{weight}_zero'
                add('DequantizeLinear', *inputs, axis=0)
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


def _step_sizes(greatest: Float32, count: int) -> Float32:
    """Step sizes of which `count` reach the greatest value.

    They are rounded up to what FP16 can hold, so that a file with FP16 scales has the same grid.
    """
    exact = np.asarray(greatest, np.float64) / count
    half = exact.astype(np.float16)
    half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    least = np.finfo(np.float16).smallest_subnormal
    return np.asarray(np.maximum(half, least), np.float32)


def decoding_nodes(network: onnx.ModelProto) -> set[str]:
    """Names of the nodes after the head's convolutions: boxes and scores are made there."""
    names = [node.name for node in network.graph.node]
    block_of = {name: re.match(r'/model\.(\d+)/', name) for name in names}
    last = max((int(found[1]) for found in block_of.values() if found), default=0)
    branch = re.compile(rf'/model\.{last}/(one2one_)?cv[23]\.')
    return {
        name
        for name, found in block_of.items()
        if found is None or (int(found[1]) == last and not branch.match(name))
    }


def convert_to_half(network: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """The network in FP16, with casts around what stays in FP32.

    kept: names of the nodes that stay in FP32. Scales become FP16, so a quantised network must
    have been made with scales that FP16 can hold, as `quantise` does.
    """
    half = onnx.shape_inference.infer_shapes(network, strict_mode=True)
    graph = half.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kind = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)}
    kind |= {name: tensor.data_type for name, tensor in stored.items()}
    nodes: list[onnx.NodeProto] = []
    in_half: set[str] = set()
    made: dict[tuple[str, bool], str] = {}
    outputs = {output.name for output in graph.output}

    def read(name: str, as_half: bool) -> str:
        """Name of the tensor in the wanted type; cast once, before its first reader."""
        if not name or kind.get(name) != TensorProto.FLOAT or (name in in_half) == as_half:
            return name
        if (name, as_half) not in made:
            target = f'{name}_{"half" if as_half else "float"}'
            if name in stored:
                graph.initializer.append(_to_half(stored[name], target))
            else:
                to = TensorProto.FLOAT16 if as_half else TensorProto.FLOAT
                nodes.append(helper.make_node('Cast', [name], [target], f'{target}_Cast', to=to))
            made[name, as_half] = target
        return made[name, as_half]

    for node in graph.node:
        as_half = node.name not in kept and not outputs.intersection(node.output)
        exempt = (1, 2) if node.op_type == 'Resize' else ()  # FP32 whatever it computes in
        inputs = [read(name, as_half and i not in exempt) for i, name in enumerate(node.input)]
        del node.input[:]
        node.input.extend(inputs)
        if as_half:
            for attribute in node.attribute:
                if node.op_type == 'Cast' and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
                if attribute.HasField('t') and attribute.t.data_type == TensorProto.FLOAT:
                    attribute.t.CopyFrom(_to_half(attribute.t, attribute.t.name))
            in_half |= {o for o in node.output if kind.get(o) == TensorProto.FLOAT}
        nodes.append(node)
    del graph.value_info[:]
    for entry in half.opset_import:
        if entry.domain in ('', 'ai.onnx'):
            entry.version = max(entry.version, OPSET)
    return with_nodes(half, nodes)


def store_weights_in_half(network: onnx.ModelProto) -> onnx.ModelProto:
    """Store the FP32 weights of convolutions as FP16, cast when the network is loaded."""
    small = deepcopy(network)
    taken = {node.input[1] for node in convolutions_of(small)}
    # Smaller ones are not worth a cast.
    weights = [t for t in small.graph.initializer if t.name in taken and np.prod(t.dims) >= 256]
    casts = []
    for weight in weights:
        name = weight.name
        small.graph.initializer.append(_to_half(weight, f'{name}_half'))
        ends = [f'{name}_half'], [f'{name}_float'], f'{name}_Cast'
        casts.append(helper.make_node('Cast', *ends, to=TensorProto.FLOAT))
        for node in [node for node in convolutions_of(small) if node.input[1] == name]:
            node.input[1] = f'{name}_float'
    return with_nodes(small, [*casts, *small.graph.node])


def _to_half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    largest = float(np.finfo(np.float16).max)
    values = np.clip(numpy_helper.to_array(tensor), -largest, largest)
    return numpy_helper.from_array(values.astype(np.float16), name)
