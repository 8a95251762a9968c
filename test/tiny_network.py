"""A network of a few kB that really looks at its picture: each 32x32 px cell is one box.

It finds blue, yellow, orange and white cells by their mean colour, so that tests can paint a
cone, know where it must be found, and need no trained weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cone_perception.model_card import ModelCard, NetworkFile, file_sha256

CLASS_NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')
CELL_PX = 32

BGR_OF_CLASS = {
    'blue_cone': (255, 0, 0),
    'orange_cone': (0, 0, 255),
    'unknown_cone': (255, 255, 255),
    'yellow_cone': (0, 255, 255),
}
"""Paint with these; grey (114) is background for every class."""

_RGB_WEIGHTS = np.array(
    [[-1, -1, 1], [0, 0, 0], [1, -1, -1], [1 / 2, 1 / 2, 1 / 2], [2 / 3, 2 / 3, -2]], np.float32
)
_BIAS = np.array([0, 0, 0, -0.7, -0.4], np.float32)


def write_tiny_bundle(
    folder: Path,
    layout: str = 'end_to_end',
    batch: int = 1,
    height_px: int = 384,
    width_px: int = 640,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> Path:
    """Write a bundle whose network outputs [batch, 9, A] or [batch, A, 6]; returns its folder."""
    model = tiny_network(layout, batch, height_px, width_px)
    names = model.metadata_props.add()
    names.key, names.value = 'names', repr(dict(enumerate(CLASS_NAMES)))
    return write_bundle(folder, 'tiny', model, layout, batch, height_px, width_px, class_names)


def write_bundle(
    folder: Path,
    name: str,
    model: onnx.ModelProto,
    layout: str,
    batch: int,
    height_px: int,
    width_px: int,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> Path:
    """Write a bundle of one FP32 network; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.onnx'
    onnx.save(model, path)
    card = ModelCard(
        name=name,
        class_names=class_names,
        height_px=height_px,
        width_px=width_px,
        output_layout=layout,
        thresholds=dict.fromkeys(class_names, 0.5),
        networks=(NetworkFile(path.name, file_sha256(path), 'fp32', 'float', batch),),
        licence='Apache-2.0',
    )
    (folder / 'card.json').write_text(card.to_json(), encoding='utf-8')
    return folder


def change_card(folder: Path, **entries: object) -> None:
    """Replace entries of a bundle's card."""
    card = json.loads((folder / 'card.json').read_text())
    (folder / 'card.json').write_text(json.dumps(card | entries))


def tiny_network(layout: str, batch: int, height_px: int, width_px: int) -> onnx.ModelProto:
    """The ONNX graph: mean colour per cell, a 1x1 convolution to five scores, fixed boxes."""
    rows, columns = height_px // CELL_PX, width_px // CELL_PX
    cells = rows * columns
    y, x = np.divmod(np.arange(cells, dtype=np.float32), columns)
    centre = np.stack([x * CELL_PX + CELL_PX / 2, y * CELL_PX + CELL_PX / 2])
    if layout == 'anchors':
        box = np.concatenate([centre, np.full_like(centre, CELL_PX)])
    else:
        box = np.concatenate([centre - CELL_PX / 2, centre + CELL_PX / 2]).T
    constants = {
        'weights': _RGB_WEIGHTS.reshape(5, 3, 1, 1),
        'bias': _BIAS,
        'shape': np.array([batch, 5, cells], np.int64),
        'box': np.repeat(box[None], batch, axis=0).astype(np.float32),
    }
    nodes = [
        helper.make_node(
            'AveragePool', ['images'], ['mean'], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2
        ),
        helper.make_node('Conv', ['mean', 'weights', 'bias'], ['raw']),
        helper.make_node('Clip', ['raw', 'zero', 'one'], ['clipped']),
        helper.make_node('Reshape', ['clipped', 'shape'], ['scores']),
    ]
    constants |= {'zero': np.array(0, np.float32), 'one': np.array(1, np.float32)}
    if layout == 'anchors':
        nodes.append(helper.make_node('Concat', ['box', 'scores'], ['output'], axis=1))
        output_shape = [batch, 9, cells]
    else:
        nodes += [
            helper.make_node('ReduceMax', ['scores'], ['best'], axes=[1], keepdims=1),
            helper.make_node('Transpose', ['best'], ['score'], perm=[0, 2, 1]),
            helper.make_node('ArgMax', ['scores'], ['index'], axis=1, keepdims=1),
            helper.make_node('Cast', ['index'], ['index_float'], to=TensorProto.FLOAT),
            helper.make_node('Transpose', ['index_float'], ['class'], perm=[0, 2, 1]),
            helper.make_node('Concat', ['box', 'score', 'class'], ['output'], axis=2),
        ]
        output_shape = [batch, cells, 6]
    return onnx_model(nodes, constants, [batch, 3, height_px, width_px], output_shape, opset=17)


def onnx_model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    input_shape: list[int],
    output_shape: list[int],
    opset: int,
) -> onnx.ModelProto:
    """A float network from `images` to `output`."""
    graph = helper.make_graph(
        nodes,
        'tiny',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info('output', TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid('', opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9 if opset < 19 else 10)
    onnx.checker.check_model(model)
    return model


def paint(bgr: np.ndarray, class_name: str, left: int, top: int, width: int, height: int) -> None:
    """Paint a cone of that class into a picture, in source pixels."""
    bgr[top : top + height, left : left + width] = BGR_OF_CLASS[class_name]


def painted(*cones: tuple[Any, ...], height_px: int = 720, width_px: int = 1280) -> np.ndarray:
    """Grey picture with cones painted: (class name, left, top, width, height)."""
    bgr = np.full((height_px, width_px, 3), 114, np.uint8)
    for cone in cones:
        paint(bgr, *cone)
    return bgr


def quantised_share(network: onnx.ModelProto) -> tuple[int, int]:
    """Count how many convolutions have quantised inputs, and how many there are."""
    from training.export.quantise import convolutions_of, steps_of

    return len(steps_of(network)), len(convolutions_of(network))
