"""Layers of a compiled engine, read from the compiler's log or from its engine inspector.

The file that goes in says what should be INT8. Only this says what is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_KIND = re.compile(r'Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+)')
_INPUTS = re.compile(r'Inputs: \[(.*?)\], (?:Constants|Outputs)')
_DATATYPE = re.compile(r'(?:Format/)?Datatype: ([^,}\]]+)')
_WEIGHTS = re.compile(r'Weights: \{[^}]*?Type: (\w+)')
_ONNX = re.compile(r'\[ONNX Layer: ([^\]]+)\]')
_FUSED = re.compile(r' \+ | \|\| ')

_PRECISIONS = {
    'int8': 'int8', 'bf16': 'bf16', 'bfloat': 'bf16', 'half': 'fp16', 'fp16': 'fp16',
    'float': 'fp32', 'fp32': 'fp32',
}  # fmt: skip
"""Word in the name of a type -> precision; the first that fits."""

_POINTWISE = ('kgen', 'reformat', 'pointwise', 'signal', 'wait', 'noop', 'shuffle')
"""Kinds of layers that carry the names of convolutions whose remains (a bias, a rounding) they
compute, but never a convolution itself."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a compiled engine.

    kind: as the compiler calls it. inputs: precision of each input, in order. weights: precision of
    the weights, empty where the compiler does not say. onnx: names of the ONNX nodes in it.
    """

    kind: str
    inputs: tuple[str, ...]
    weights: str
    onnx: frozenset[str]

    @property
    def precision(self) -> str:
        """Precision that it computes in: int8, fp16, bf16, fp32, or other."""
        return next((p for p in (self.weights, *self.inputs[:1]) if p and p != 'other'), 'other')


def layers_from_log(lines: Iterable[str]) -> tuple[Layer, ...]:
    """Layers that a build with a verbose logger and detailed profiling prints, one per line."""
    found = []
    for line in lines:
        if head := _KIND.match(line):
            inputs, weights = _INPUTS.search(line), _WEIGHTS.search(line)
            kinds = _DATATYPE.findall(inputs[1]) if inputs else []
            of_weights = weights[1] if weights else ''
            found.append(_layer(head['name'], head['kind'], kinds, of_weights, line))
    return tuple(found)


def layers_from_inspector(text: str) -> tuple[Layer, ...]:
    """Layers of EngineInspector.get_engine_information(LayerInformationFormat.JSON)."""
    found = []
    for entry in json.loads(text).get('Layers', []):
        if isinstance(entry, dict):
            words = [str(entry.get(key, '')) for key in ('Name', 'LayerType', 'Metadata')]
            weights, tensors = entry.get('Weights'), entry.get('Inputs', [])
            of_weights = str(weights.get('Type', '')) if isinstance(weights, dict) else ''
            kinds = [str(t.get('Format/Datatype', t.get('Datatype', ''))) for t in tensors]
            found.append(_layer(words[0], words[1], kinds, of_weights, words[2]))
    return tuple(found)


def convolution_precisions(
    layers: Iterable[Layer], convolutions: Iterable[str]
) -> Mapping[str, int]:
    """Count the network's convolutions by the precision that they run in.

    convolutions: names of the ONNX nodes. One that no layer owns up to counts as `unknown`.
    """
    computing = [
        layer for layer in layers if not any(word in layer.kind.lower() for word in _POINTWISE)
    ]
    counts: Counter[str] = Counter()
    for name in convolutions:
        owners = [layer for layer in computing if name in layer.onnx]
        counts[owners[0].precision if owners else 'unknown'] += 1
    return dict(sorted(counts.items()))


def layer_precisions(layers: Iterable[Layer]) -> Mapping[str, Mapping[str, int]]:
    """Kind of layer -> precision -> how many."""
    counts: dict[str, Counter[str]] = {}
    for layer in layers:
        if layer.inputs:
            counts.setdefault(layer.kind, Counter())[layer.precision] += 1
    return {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)}


def _layer(name: str, kind: str, inputs: Iterable[str], weights: str, metadata: str) -> Layer:
    """A layer, whose name has those that were fused into it: `a + b || c`."""
    onnx = frozenset([*_ONNX.findall(metadata), *_FUSED.split(name)])
    taken = tuple(map(_precision, inputs))
    return Layer(kind.strip(), taken, weights and _precision(weights), onnx)


def _precision(text: str) -> str:
    return next((found for word, found in _PRECISIONS.items() if word in text.lower()), 'other')
