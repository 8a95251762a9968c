"""Tests which blocks are measured, and that the search keeps as few in float as the gate allows."""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from tiny_network import onnx_model  # noqa: E402

from cone_perception.errors import ModelError  # noqa: E402
from training.export.sensitivity import (  # noqa: E402
    BlockSensitivity,
    blocks_of,
    measure_blocks,
    score_error,
    search_float_blocks,
    steps_without,
    write_evidence,
)

NODES = (
    '/model.0/conv/Conv',
    '/model.1/conv/Conv',
    '/model.2/cv2.0/cv2.0.0/conv/Conv',
    '/model.2/cv2.0/cv2.0.2/Conv',
)
SIDE_PX = 32


@pytest.fixture(scope='module')
def original():
    """Four 1x1 convolutions, then a mean over rows: 3x32x32 -> [1, 5, 32], as anchors."""
    node = onnx.helper.make_node
    random = np.random.default_rng(3)
    channels = (3, 8, 8, 8, 5)
    weights, nodes, taken = {}, [], 'images'
    for index, name in enumerate(NODES):
        shape = (channels[index + 1], channels[index], 1, 1)
        weights[f'w{index}'] = random.normal(0, 0.4, shape).astype(np.float32)
        nodes.append(node('Conv', [taken, f'w{index}'], [f'c{index}'], name))
        taken = f'c{index}'
    weights['axes'] = np.array([2], np.int64)
    nodes.append(node('ReduceMean', [taken, 'axes'], ['output'], '/model.2/Mean', keepdims=0))
    return onnx_model(nodes, weights, [1, 3, SIDE_PX, SIDE_PX], [1, 5, SIDE_PX], opset=19)


STEPS = {**dict.fromkeys(NODES, 1 / 64), NODES[1]: 0.5}
"""Of every convolution; of the second one far too large."""


def blocks(**errors: float) -> list[BlockSensitivity]:
    """Blocks of equal size; the name's first letter is the block."""
    return [BlockSensitivity(name, (name,), 100, error) for name, error in errors.items()]


def test_blocks_are_layers_and_branches_of_the_head(original):
    assert blocks_of(original) == {
        'model.0': (NODES[0],),
        'model.1': (NODES[1],),
        'model.2/cv2.0': (NODES[2],),
    }


def test_block_with_bad_scales_loses_most(original):
    """On a CPU without VNNI too: test_quantise.py runs it there."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8) for _ in range(2)]
    measured = measure_blocks(STEPS, original, pictures, 'anchors')
    errors = {block.block: block.score_error for block in measured}
    assert max(errors, key=errors.__getitem__) == 'model.1'
    assert min(errors.values()) > 0
    assert [block.parameters for block in measured] == [24, 64, 64]


def test_named_blocks_and_the_last_one_stay_in_float(original):
    assert list(steps_without(STEPS, original, ())) == [*NODES[:3]]
    assert list(steps_without(STEPS, original, ['model.1'])) == [NODES[0], NODES[2]]
    with pytest.raises(ModelError, match=r'no block model\.9\. It has: model\.0, model\.1'):
        steps_without(STEPS, original, ['model.9'])


@pytest.mark.parametrize('needed', [set(), {'a'}, {'c'}, {'a', 'c'}, {'b', 'd'}])
def test_search_finds_exactly_the_blocks_that_are_needed(needed):
    measured = blocks(a=0.4, b=0.3, c=0.2, d=0.1, e=0.01)

    def passes(kept: Collection[str]) -> bool:
        return needed <= set(kept)

    assert set(search_float_blocks(measured, passes)) == needed


def test_search_asks_the_gate_seldom():
    asked: list[Collection[str]] = []
    measured = [BlockSensitivity(str(i), (str(i),), 1, 1 / (i + 1)) for i in range(30)]

    def passes(kept: Collection[str]) -> bool:
        asked.append(kept)
        return {'0', '1'} <= set(kept)

    assert search_float_blocks(measured, passes) == ('0', '1')
    assert len(asked) <= 7


def test_error_counts_per_weight():
    measured = [
        BlockSensitivity('huge', ('huge',), 10_000, 0.5),
        BlockSensitivity('tiny', ('tiny',), 10, 0.1),
        BlockSensitivity('last', ('last',), 100, 0.0),
    ]
    assert search_float_blocks(measured, lambda kept: len(kept) >= 1) == ('tiny',)


def test_nothing_left_in_int8_is_refused():
    with pytest.raises(ModelError, match='no network with a block in INT8 passes the gate'):
        search_float_blocks(blocks(a=0.4, b=0.3), lambda kept: len(kept) == 2)


def test_scores_are_compared_where_the_reference_is_sure():
    reference = np.zeros((9, 100), np.float32)
    reference[4, :50] = 0.9
    other = reference.copy()
    other[4, :50] = 0.7
    other[5:, 50:] = 0.1
    assert score_error(reference, other, 'anchors') == pytest.approx(0.2)
    rows = np.zeros((300, 6), np.float32)
    rows[:60, 4] = 0.8
    assert score_error(rows, rows * 0.5, 'end_to_end') == pytest.approx(0.4)


def test_evidence_says_what_stays_in_float(tmp_path):
    write_evidence(tmp_path, blocks(a=0.4, b=0.1), ['a'])
    stored = json.loads((tmp_path / 'sensitivity.json').read_text())
    assert stored['kept_in_float'] == ['a']
    assert [block['in_float'] for block in stored['blocks']] == [True, False]
    assert '"name":"stays in float"' in (tmp_path / 'sensitivity.html').read_text()
