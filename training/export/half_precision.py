"""FP32 or quantised ONNX -> the same with FP16 in place of FP32, typed as TensorRT takes it.

Inputs, outputs and the decoding of boxes stay FP32: at 640 pixels FP16 counts in halves of a pixel.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.export.quantise import convolutions_of, with_nodes

FLOAT_INPUTS = {'Resize': (1, 2)}
"""Inputs that are FP32 whatever the operator computes in."""

OPSET = 19
"""The first in which the scales of INT8 may be FP16, as TensorRT wants them beside FP16 layers."""

LARGE = 256
"""Values from which a tensor of weights is worth a cast."""


def decoding_nodes(network: onnx.ModelProto) -> set[str]:
    """Names of the nodes after the head's convolutions: boxes and scores are made there."""
    names = [node.name for node in network.graph.node]
    blocks = [int(found[1]) for name in names if (found := re.match(r'/model\.(\d+)/', name))]
    head = f'/model.{max(blocks, default=0)}/'
    branch = re.compile(re.escape(head) + r'(one2one_)?cv[23]\.')
    inside = re.compile(r'/model\.\d+/')
    return {
        name
        for name in names
        if not inside.match(name) or (name.startswith(head) and not branch.match(name))
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
        exempt = FLOAT_INPUTS.get(node.op_type, ())
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
    small = onnx.ModelProto()
    small.CopyFrom(network)
    taken = {node.input[1] for node in convolutions_of(small)}
    weights = [t for t in small.graph.initializer if t.name in taken and np.prod(t.dims) >= LARGE]
    nodes = []
    for weight in weights:
        half, back = f'{weight.name}_half', f'{weight.name}_float'
        small.graph.initializer.append(_to_half(weight, half))
        nodes.append(
            helper.make_node('Cast', [half], [back], f'{weight.name}_Cast', to=TensorProto.FLOAT)
        )
    names = {weight.name for weight in weights}
    for node in convolutions_of(small):
        if node.input[1] in names:
            node.input[1] = f'{node.input[1]}_float'
    return with_nodes(small, [*nodes, *small.graph.node])


def _to_half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    largest = float(np.finfo(np.float16).max)
    values = np.clip(numpy_helper.to_array(tensor), -largest, largest)
    return numpy_helper.from_array(values.astype(np.float16), name)
