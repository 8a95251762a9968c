"""FP32 ONNX -> INT8 with explicit quantise/dequantise pairs, in the encoding of each runtime.

Only the inputs and weights of convolutions are quantised: symmetric, per output channel. In float
stay the blocks that lose most by it, all decoding, and attention's matrix products. Biases stay in
float too: TensorRT does not parse quantised ones.

There is one quantisation and two ways to write it. TensorRT takes int8 activations with zero point
0 only, OpenVINO computes that wrongly and takes uint8 with zero point 128: the same real grid.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from cone_perception.errors import SourceError
from cone_perception.preprocess import PAD_VALUE, Letterbox
from cone_perception.types import Float32, UInt8

FIRST_BLOCKS = re.compile(r'/model\.[0-2]/')
HEAD = re.compile(r'/model\.\d+/((one2one_)?cv[23]\.\d+/|dfl/)')
"""Names of nodes in an Ultralytics export that stay in float.

Measured on the demo model: with both in float the scores' error halves, see docs/demo_model.md.
"""

ZERO_POINT = 128


@dataclass(frozen=True, slots=True)
class Calibration:
    """Pictures that set the scales of the activations.

    pictures: paths, in order. height_px, width_px: the network's input.
    """

    pictures: tuple[Path, ...]
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError('calibration needs at least one picture')

    @classmethod
    def from_folder(cls, folder: Path, count: int, height_px: int, width_px: int) -> Calibration:
        """`count` pictures of a folder, evenly spaced in the order of their names."""
        found = sorted(p for p in folder.rglob('*') if p.suffix.lower() in ('.jpg', '.png'))
        if len(found) < count:
            raise SourceError(
                f'{folder} holds {len(found)} pictures, but calibration needs {count}. '
                'Give the training pictures of a rendered data set.'
            )
        chosen = np.linspace(0, len(found) - 1, count).round().astype(int)
        return cls(tuple(found[index] for index in chosen), height_px, width_px)

    def __iter__(self) -> Iterator[Float32]:
        """Network inputs, (1, 3, H, W) float32 RGB in 0..1, letterboxed as while driving."""
        for path in self.pictures:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                raise SourceError(f'{path} cannot be decoded as a picture.')
            yield _network_input(picture.astype(np.uint8), self.height_px, self.width_px)

    def sha256(self) -> str:
        """Over the pictures' bytes in their order, lower-case hex."""
        digest = hashlib.sha256()
        for path in self.pictures:
            digest.update(path.read_bytes())
        return digest.hexdigest()


def quantise(original: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """Quantise an FP32 network. Returns it with int8 activations, zero point 0 (TensorRT's).

    The weights are folded: stored as int8 and only dequantised.
    """
    everything = quantise_everything(original, calibration)
    kept = [n.name for n in original.graph.node if HEAD.match(n.name) or FIRST_BLOCKS.match(n.name)]
    return restore_float(everything, original, kept)


def quantise_everything(original: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """Quantise every convolution. What must not be is given back by `restore_float`.

    Raises SourceError when the nodes lack the names of an Ultralytics export.
    """
    if not any(HEAD.match(node.name) for node in original.graph.node):
        raise SourceError(
            'the network has no head with the names of an Ultralytics export, so what must stay in '
            'float is unknown. Export it with `cone-training export`.'
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(original)  # quantize_static changes what it is given
    with TemporaryDirectory() as folder:
        out = Path(folder) / 'int8.onnx'
        quantize_static(
            copy,
            out,
            _Reader(copy.graph.input[0].name, calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['Conv'],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                'ActivationSymmetric': True,
                'WeightSymmetric': True,
                'QuantizeBias': False,
                'OpTypesToExcludeOutputQuantization': ['Conv'],
            },
        )
        quantised = onnx.load(out)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(original.metadata_props)
    return quantised


def restore_float(
    quantised: onnx.ModelProto, original: onnx.ModelProto, names: Collection[str]
) -> onnx.ModelProto:
    """A quantised network in which the nodes of these names compute as in the original."""
    restored = onnx.ModelProto()
    restored.CopyFrom(quantised)
    graph = restored.graph
    inputs_of = {node.name: node.input for node in original.graph.node}
    weights = {tensor.name: tensor for tensor in original.graph.initializer}
    stored = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != 'Conv' or node.name not in names:
            continue
        node.input[:] = inputs_of[node.name]
        for name in node.input:
            if name in weights and name not in stored:
                graph.initializer.append(weights[name])
                stored.add(name)
    _remove_unused(graph)
    return restored


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
    _remove_unused(graph)
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


def _remove_unused(graph: onnx.GraphProto) -> None:
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


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, input_name: str, calibration: Calibration) -> None:
        self._inputs = ({input_name: picture} for picture in calibration)

    def get_next(self) -> dict[str, Float32] | None:
        return next(self._inputs, None)


def _network_input(bgr: UInt8, height_px: int, width_px: int) -> Float32:
    letterboxed = np.full((height_px, width_px, 3), PAD_VALUE, np.uint8)
    Letterbox(bgr.shape[0], bgr.shape[1], height_px, width_px).apply(bgr, letterboxed)
    planes = letterboxed[None, :, :, ::-1].transpose(0, 3, 1, 2)
    scaled: Float32 = np.ascontiguousarray(planes, np.float32) / np.float32(255)
    return scaled
