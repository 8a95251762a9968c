"""The result of the gate: each network against FP32, as a table, gate.json and the card's entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cone_perception.accuracy.intervals import Interval
from cone_perception.files import without_nan
from training.judging.compare import Comparison
from training.recipe.recipe import GateLimits

SMALL_PX = 16
"""Boxes lower than this, at 1280 px picture width, are small."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The boxes of a network beside those of FP32 at the fixed confidence or above.

    boxes: of FP32. score_error, score_error_p95: absolute difference of a box's score; of a box
    that is not found at all, its whole score. missed: boxes that it does not find. extra: boxes
    that only it finds. iou: mean overlap of those that both find.
    """

    boxes: int
    score_error: float
    score_error_p95: float
    missed: int
    extra: int
    iou: float


@dataclass(frozen=True, slots=True)
class JudgedNetwork:
    """One network against FP32.

    kind: of the network, see NetworkFile. optional: a CPU may compute it so, or leave it: its
    failure is not the bundle's. map50, map50_95, small_recall: this less FP32, with the 95 %
    interval over the pictures. small_boxes: that the recall is of. per_class: cones, AP50 and
    AP50-95 of (FP32, this network). failures: limits it breaks.
    """

    kind: str
    optional: bool
    file: str
    runtime: str
    map50: Interval
    map50_95: Interval
    small_recall: Interval
    small_boxes: int
    per_class: Mapping[str, Mapping[str, Any]]
    agreement: Agreement
    failures: tuple[str, ...]
    comparison: Comparison

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict on a bundle.

    data: name of the data set's folder. reference: figures of FP32. notes: what limits it.
    """

    data: str
    split: str
    data_sha256: str
    pictures: int
    cones: int
    confidence: float
    reference: Mapping[str, float]
    limits: GateLimits
    networks: tuple[JudgedNetwork, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.refusals

    @property
    def refusals(self) -> tuple[JudgedNetwork, ...]:
        """The networks for whose sake the bundle is refused."""
        return tuple(each for each in self.networks if not (each.passed or each.optional))

    def to_json(self) -> dict[str, Any]:
        """The content of gate.json; null for what is not defined."""
        networks = {each.kind: {'passed': each.passed, **asdict(each)} for each in self.networks}
        stored: dict[str, Any] = without_nan(
            {**asdict(self), 'passed': self.passed, 'networks': networks}
        )
        return stored

    def card_entry(self, int8_convolutions: tuple[int, int]) -> dict[str, Any]:
        """The model card's `gate`: the verdict, the limits and the figures they are held to."""
        entry = {
            'passed': self.passed,
            'data': self.data,
            'split': self.split,
            'data_sha256': self.data_sha256,
            'pictures': self.pictures,
            'cones': self.cones,
            'limits': asdict(self.limits),
            'reference': dict(self.reference),
            'figures': {judged.kind: _summary(judged) for judged in self.networks},
            'int8_convolutions': list(int8_convolutions),
            'notes': list(self.notes),
        }
        cleaned: dict[str, Any] = _rounded(without_nan(entry))
        return cleaned


def table(result: GateResult) -> str:
    """Text with a line for each network and each limit that it breaks."""
    lines = [
        f'{result.split} of {result.data}: {result.pictures} pictures, {result.cones} cones; '
        f'FP32 {result.reference["map50"]:.4f} mAP50, {result.reference["map50_95"]:.4f} mAP50-95',
        f'{"":20}{"mAP50":>9}{"mAP50-95":>10}{"small":>9}{"score":>8}{"p95":>8}'
        f'{"missed":>8}{"extra":>7}{"IoU":>7}',
    ]
    for each in result.networks:
        met = each.agreement
        lines.append(
            f'{each.kind:20}{each.map50.value:+9.4f}{each.map50_95.value:+10.4f}'
            f'{each.small_recall.value:+9.4f}{met.score_error:8.4f}{met.score_error_p95:8.4f}'
            f'{met.missed:8}{met.extra:7}{met.iou:7.3f}  {"passed" if each.passed else "FAILED"}'
        )
        lines += [f'  {failure}' for failure in each.failures]
    lines += [f'Note: {note}' for note in result.notes]
    return '\n'.join(lines)


def _rounded(value: Any) -> Any:
    """The same with numbers of five decimals, for people."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 5) if isinstance(value, float) else value


def _summary(judged: JudgedNetwork) -> dict[str, Any]:
    return {
        'passed': judged.passed,
        'optional': judged.optional,
        'runtime': judged.runtime,
        'map50': asdict(judged.map50),
        'map50_95': asdict(judged.map50_95),
        'small_recall': asdict(judged.small_recall),
        'small_boxes': judged.small_boxes,
        **asdict(judged.agreement),
        'failures': list(judged.failures),
    }
