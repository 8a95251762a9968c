"""Layers of a compiled engine, read from the compiler's log or from its engine inspector.

The file that goes in says what should be INT8. Only this says what is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_KIND = re.compile(r'Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+)')
_INPUTS = re.compile(r'Inputs: \[(.*?)\], (?:Constants|Outputs)')
_DATATYPE = re.compile(r'(?:Format/)?Datatype: ([^,}\]]+)')
_WEIGHTS = re.compile(r'Weights: \{[^}]*?Type: (\w+)')
_ONNX = re.compile(r'\[ONNX Layer: ([^\]]+)\]')
_FUSED = re.compile(r' \+ | \|\| ')

_POINTWISE = ('kgen', 'reformat', 'pointwise', 'signal', 'wait', 'noop', 'shuffle')
"""Kinds of layers that carry the names of convolutions whose remains (a bias, a rounding) they
compute, but never a convolution itself."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a compiled engine.

    kind: as the compiler calls it. inputs: precision of each input, in order. weights: precision of
    the weights, empty where the compiler does not say. onnx: names of the ONNX nodes in it.
    """

    name: str
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
        head = _KIND.match(line)
        if not head:
            continue
        inputs = _INPUTS.search(line)
        weights = _WEIGHTS.search(line)
        name = head['name']
        found.append(
            Layer(
                name,
                head['kind'].strip(),
                tuple(_precision(t) for t in _DATATYPE.findall(inputs[1] if inputs else '')),
                _precision(weights[1]) if weights else '',
                frozenset(_ONNX.findall(line)) | _parts(name),
            )
        )
    return tuple(found)


def layers_from_inspector(text: str) -> tuple[Layer, ...]:
    """Layers of EngineInspector.get_engine_information(LayerInformationFormat.JSON)."""
    entries = json.loads(text).get('Layers', [])
    return tuple(_from_entry(entry) for entry in entries if isinstance(entry, dict))


def convolution_precisions(
    layers: Iterable[Layer], convolutions: Iterable[str]
) -> Mapping[str, int]:
    """Count the network's convolutions by the precision that they run in.

    convolutions: names of the ONNX nodes. One that no layer owns up to counts as `unknown`.
    """
    computing = [layer for layer in layers if not _is_pointwise(layer.kind)]
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


def _from_entry(entry: Mapping[str, Any]) -> Layer:
    inputs = tuple(
        _precision(str(tensor.get('Format/Datatype', tensor.get('Datatype', ''))))
        for tensor in entry.get('Inputs', [])
    )
    weights = entry.get('Weights')
    name = str(entry.get('Name', ''))
    return Layer(
        name,
        str(entry.get('LayerType', '')),
        inputs,
        _precision(str(weights.get('Type', ''))) if isinstance(weights, dict) else '',
        frozenset(_ONNX.findall(str(entry.get('Metadata', '')))) | _parts(name),
    )


def _parts(name: str) -> frozenset[str]:
    """The layers that were fused into one, from its name: `a + b || c`."""
    return frozenset(_FUSED.split(name))


def _is_pointwise(kind: str) -> bool:
    return any(word in kind.lower() for word in _POINTWISE)


def _precision(text: str) -> str:
    lower = text.lower()
    for word, precision in (
        ('int8', 'int8'),
        ('bf16', 'bf16'),
        ('bfloat', 'bf16'),
        ('half', 'fp16'),
        ('fp16', 'fp16'),
        ('float', 'fp32'),
        ('fp32', 'fp32'),
    ):
        if word in lower:
            return precision
    return 'other'
