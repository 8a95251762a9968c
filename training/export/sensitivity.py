"""The score error of each block in INT8, and the fewest blocks that must stay in float.

steps of all convolutions -> one block at a time -> score error -> order -> search against the gate
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from tqdm import tqdm

from cone_perception.engines.cpu.openvino import OpenVinoEngine
from cone_perception.errors import ModelError
from cone_perception.files import write_json
from cone_perception.model_card import NetworkFile, Preprocessing, file_sha256
from cone_perception.pages.blocks import Page, Section
from cone_perception.pages.charts import bars, chart
from cone_perception.pages.page import write_page
from cone_perception.types import Float32, OutputLayout, Precision, UInt8
from training.export.quantise import (
    HEAD,
    LAST,
    SENSITIVE_BLOCKS,
    Steps,
    convolutions_of,
    quantise,
)

TOP = 50
"""Boxes of a picture, those that FP32 scores best, whose scores are compared."""

BLOCK = re.compile(r'/model\.(\d+)/((?:one2one_)?cv[23]\.\d+/)?')


@dataclass(frozen=True, slots=True)
class BlockSensitivity:
    """One block, quantised alone.

    block: `model.4`, or a branch of the head, `model.21/cv3.0`. convolutions: names of its nodes.
    parameters: weights in them. score_error: mean absolute difference of the scores of FP32's best
    boxes.
    """

    block: str
    convolutions: tuple[str, ...]
    parameters: int
    score_error: float


def blocks_of(network: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Convolutions of each block that may be quantised, in the network's order."""
    found: dict[str, list[str]] = {}
    for node in convolutions_of(network):
        match = BLOCK.match(node.name)
        if match and not LAST.match(node.name):
            found.setdefault(match[0].strip('/'), []).append(node.name)
    return {block: tuple(names) for block, names in found.items()}


def usual_float_blocks(network: onnx.ModelProto) -> list[str]:
    """Blocks that stay in float unless a search chose others."""
    return [
        block
        for block, names in blocks_of(network).items()
        if HEAD.match(names[0]) or SENSITIVE_BLOCKS.match(names[0])
    ]


def measure_blocks(
    steps: Steps, original: onnx.ModelProto, pictures: Sequence[UInt8], layout: OutputLayout
) -> tuple[BlockSensitivity, ...]:
    """Quantise each block alone and compare its scores with FP32's, in OpenVINO.

    steps: of all convolutions. pictures: (H, W, 3) uint8 BGR, as the network sees them.
    """
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in original.graph.initializer}
    weights = {node.name: sizes.get(node.input[1], 0) for node in convolutions_of(original)}
    reference = _outputs(original, pictures, 'fp32')
    measured = []
    for block, names in tqdm(blocks_of(original).items(), desc='sensitivity', unit='block'):
        alone = quantise(original, {name: steps[name] for name in names}, 'uint8')
        outputs = _outputs(alone, pictures, 'int8')
        errors = [score_error(a, b, layout) for a, b in zip(reference, outputs, strict=True)]
        parameters = sum(weights[name] for name in names)
        measured.append(BlockSensitivity(block, names, parameters, float(np.mean(errors))))
    return tuple(measured)


def score_error(reference: Float32, found: Float32, layout: OutputLayout) -> float:
    """Mean absolute difference of the scores of the best boxes of one picture's two outputs."""
    if layout == 'end_to_end':  # sorted by score already
        return float(np.abs(reference[:TOP, 4] - found[:TOP, 4]).mean())
    scores = reference[4:]
    best = np.argsort(-scores.max(axis=0), kind='stable')[:TOP]
    classes = scores[:, best].argmax(axis=0)
    return float(np.abs(scores[classes, best] - found[4:][classes, best]).mean())


def search_float_blocks(
    measured: Sequence[BlockSensitivity], passes: Callable[[Collection[str]], bool]
) -> tuple[str, ...]:
    """The fewest blocks in float with which the network passes, as far as a greedy search finds.

    Blocks are kept in the order of error per weight: the shortest beginning that passes is found by
    bisection; then each of its blocks is given up again, the largest first, if it still passes.
    passes: the gate, given the names of the blocks in float. Raises ModelError when it takes all.
    """
    order = sorted(measured, key=lambda b: -b.score_error / max(1, b.parameters))
    names = [block.block for block in order]
    count = bisect_left(range(len(names)), True, key=lambda number: passes(names[:number]))
    if count == len(names):
        raise ModelError(
            'no network with a block in INT8 passes the gate: the limits are too tight for '
            'this split, or the calibration pictures are unlike it.'
        )
    kept = names[:count]
    for block in sorted(order[: max(0, count - 1)], key=lambda b: -b.parameters):
        fewer = [name for name in kept if name != block.block]
        if passes(fewer):
            kept = fewer
    return tuple(kept)


def steps_without(steps: Steps, original: onnx.ModelProto, kept: Collection[str]) -> Steps:
    """Steps of the convolutions outside the blocks `kept`. Raises ModelError: no such block."""
    blocks = blocks_of(original)
    unknown = set(kept) - blocks.keys()
    if unknown:
        raise ModelError(f'the network has no block {min(unknown)}. It has: {", ".join(blocks)}.')
    return {
        name: steps[name] for block, names in blocks.items() if block not in kept for name in names
    }


def write_evidence(
    folder: Path, measured: Sequence[BlockSensitivity], kept: Collection[str]
) -> None:
    """Write sensitivity.json, and sensitivity.html: a bar for each block, two colours."""
    rows = [{**asdict(block), 'in_float': block.block in kept} for block in measured]
    write_json(folder / 'sensitivity.json', {'blocks': rows, 'kept_in_float': [*kept]})
    traces = []
    for name, colour, in_float in (('INT8', '--blue', False), ('stays in float', '--orange', True)):
        own = [block for block in measured if (block.block in kept) == in_float]
        errors, blocks = [block.score_error for block in own], [block.block for block in own]
        traces.append(bars(name, errors, blocks, colour, orientation='h'))
    shown = chart(
        'sensitivity',
        traces,
        x=f'score error of the {TOP} best boxes with this block alone in INT8',
        height_px=100 + 20 * len(measured),
        y_axis={'categoryarray': [block.block for block in measured], 'autorange': 'reversed'},
        margin={'l': 130},
    )
    write_page(folder / 'sensitivity.html', Page('Sensitivity', sections=[Section('', [shown])]))


def _outputs(
    network: onnx.ModelProto, pictures: Sequence[UInt8], precision: Precision
) -> list[Float32]:
    """The network's output for each picture, from OpenVINO."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'network.onnx'
        onnx.save(network, path)
        file = NetworkFile(path.name, file_sha256(path), precision, 'float')
        with closing(OpenVinoEngine(path, file, Preprocessing(), threads=0)) as engine:
            return [engine.run(picture[None])[0].copy() for picture in pictures]
