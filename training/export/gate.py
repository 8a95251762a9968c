"""The verdict on a bundle: do its quantised networks find what its FP32 network finds?

bundle, labelled split -> predictions of each network -> differences -> limits -> verdict

Same pictures, same code, the pipeline that drives, in the card's views. The band of a picture lies
for every network where FP32's first look shows far cones. The limits come from the recipe.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.accuracy.average_precision import rank, share
from cone_perception.accuracy.intervals import Float64, Int32, Interval, resampled
from cone_perception.accuracy.matching import match_detections
from cone_perception.arguments import add_fields
from cone_perception.dataset.layout import find_data_yaml
from cone_perception.dataset.split import LabelledSplit, read_split
from cone_perception.engines.check import match_pairs, mean_and_p95
from cone_perception.engines.cpu.open import computes_bfloat16, networks_for_cpu, open_network
from cone_perception.errors import ModelError
from cone_perception.files import to_json, without_nan, write_json
from cone_perception.model_card import Bundle, NetworkFile, read_bundle
from cone_perception.types import Arithmetic, CpuRuntime, Detections, Views
from training.judging.compare import Comparison, compare
from training.judging.evaluate import assemble, detect
from training.judging.evaluation import Evaluation
from training.judging.metrics import FIXED_CONFIDENCE, metrics
from training.judging.predictions import Predictions
from training.recipe.load import load_recipe
from training.recipe.recipe import GateLimits

SLACK = 0.05
"""A box below the fixed confidence by less than this is not missed: its score error counts."""

SMALL_PX = 16
"""Boxes lower than this, at 1280 px picture width, are small."""

Evaluated = tuple[Evaluation, Predictions]


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

    data: name of the data set's folder. views: that the networks saw of each picture. reference:
    figures of FP32. notes: what limits it.
    """

    data: str
    split: str
    data_sha256: str
    views: Views
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
        stored = {**asdict(self), 'passed': self.passed, 'networks': networks}
        return dict(without_nan(stored))

    def card_entry(self, int8_convolutions: tuple[int, int]) -> dict[str, Any]:
        """The model card's `gate`: the verdict, the limits and the figures they are held to."""
        entry = self.to_json()
        figures = entry.pop('networks')
        for each in figures.values():
            each |= each.pop('agreement')
            for name in ('kind', 'file', 'per_class', 'comparison'):
                del each[name]
        del entry['confidence']
        entry |= {'figures': figures, 'int8_convolutions': int8_convolutions}
        # Rounded for people.
        return dict(json.loads(to_json(entry), parse_float=lambda text: round(float(text), 5)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bundle', type=Path, help='model bundle with an FP32 network')
    parser.add_argument('--data', type=Path, required=True, help='YOLO data set with data.yaml')
    parser.add_argument('--split', default='val', help='split to judge on (default: val)')
    add_limits(parser)
    parser.add_argument('--json', type=Path, help='write all figures here')


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The arguments that `limits_from` reads."""
    parser.add_argument('--recipe', type=Path, help='take the limits from its section `gate`')
    add_fields(parser, GateLimits, prefix='limit-')
    # What is not given is the recipe's.
    parser.set_defaults(**{f'limit_{entry.name}': None for entry in fields(GateLimits)})
    compared = 'boxes of FP32 above it are compared (default: %(default)s)'
    parser.add_argument('--confidence', type=float, default=FIXED_CONFIDENCE, help=compared)
    parser.add_argument('--resamples', type=int, default=1000, help='draws of the bootstrap (1000)')


def run(args: argparse.Namespace) -> int:
    """Judge and print; status 1 when a network fails."""
    asked = read_bundle(args.bundle), read_split(args.data, args.split), limits_from(args)
    result = judge_bundle(*asked, confidence=args.confidence, resamples=args.resamples)
    print(table(result))
    if args.json:
        write_json(args.json, result.to_json())
    return 0 if result.passed else 1


def limits_from(args: argparse.Namespace, recipe: Path | None = None) -> GateLimits:
    """Limits of --limit-..., else of the recipe (--recipe, or `recipe`), else the usual ones.

    Raises RecipeError.
    """
    recipe = args.recipe or recipe
    limits = load_recipe(recipe).gate if recipe else GateLimits()
    own = {f.name: getattr(args, f'limit_{f.name}') for f in fields(GateLimits)}
    return replace(limits, **{name: value for name, value in own.items() if value is not None})


def judge_bundle(
    bundle: Bundle,
    split: LabelledSplit,
    limits: GateLimits,
    *,
    confidence: float = FIXED_CONFIDENCE,
    resamples: int = 1000,
    reference: Evaluated | None = None,
    bfloat16: bool = True,
) -> GateResult:
    """Judge every network for one picture that is not FP32 against the one that is.

    reference: what the FP32 network found, where it is known. bfloat16: also judge what a CPU may
    compute in it, where this one can. Raises ModelError, EngineError.
    """
    single = [network for network in bundle.card.networks if network.batch == 1]
    judged = [network for network in single if network.precision != 'fp32']
    if not judged:
        raise ModelError(f'{bundle.folder} has no network besides FP32: there is nothing to judge.')
    reference = reference or evaluate_network(bundle, bundle.network('fp32', 'float'), split)
    first, found_first = reference
    rows_px = [cones.band_px for cones in found_first.cones]
    ways: list[tuple[NetworkFile, Arithmetic]] = [(network, 'float32') for network in judged]
    if bfloat16 and computes_bfloat16():
        ways += [(network, 'bfloat16') for network in networks_for_cpu(bundle.card, 1)]
    networks, notes = [], list[str]()
    for network, arithmetic in ways:
        own = evaluate_network(bundle, network, split, arithmetic, rows_px)
        names = network.kind(arithmetic), 'fp32'
        comparison = compare(own[0], first, resamples, names=names, confidence=confidence)
        notes += [note for note in comparison.warnings if not note.startswith(('precision', 'One'))]
        optional = arithmetic != 'float32'
        networks.append(_judge(network, reference, own, comparison, limits, optional))
    if not networks[0].small_boxes:
        notes.append(f'no cone under {SMALL_PX} px: their recall is not judged')
    figures = metrics(first, confidence=confidence)
    return GateResult(
        data=find_data_yaml(split.data).parent.name,
        split=split.split,
        data_sha256=split.sha256,
        views=found_first.views,
        pictures=len(split),
        cones=first.truth_count,
        confidence=confidence,
        reference={'map50': figures.map50, 'map50_95': figures.map50_95},
        limits=limits,
        networks=tuple(networks),
        notes=tuple(dict.fromkeys(notes)),
    )


def agreement(
    reference: Sequence[Detections], found: Sequence[Detections], confidence: float
) -> Agreement:
    """Compare what two networks found in the same pictures, class by class at IoU 0.5."""
    errors, overlaps = [], []
    boxes = missed = extra = 0
    for all_ours, theirs in zip(reference, found, strict=True):
        ours, sure = (each[each.score >= confidence] for each in (all_ours, theirs))
        boxes += len(ours)
        i, j, overlap = match_pairs(theirs, ours)
        error = ours.score.astype(np.float64)
        error[j] = np.abs(theirs.score[i] - ours.score[j])
        errors += error.tolist()
        overlaps += overlap.tolist()
        near, near_theirs = (each[each.score >= confidence - SLACK] for each in (all_ours, theirs))
        missed += int((match_detections(ours, near_theirs) < 0).sum())
        extra += int((match_detections(sure, near) < 0).sum())
    return Agreement(boxes, *mean_and_p95(errors), missed, extra, mean_and_p95(overlaps)[0])


def evaluate_network(
    bundle: Bundle,
    network: NetworkFile,
    split: LabelledSplit,
    arithmetic: Arithmetic = 'float32',
    rows_px: Sequence[float | None] = (),
) -> Evaluated:
    """Run a network over the split and compare it with the labels.

    rows_px: where the band of each picture lies; empty: where its first look shows far cones.
    FP32, OpenVINO's INT8 and bfloat16 in OpenVINO; what is for TensorRT in ONNX Runtime, which
    rounds every result to FP16 where the file says so.
    """
    name: CpuRuntime = 'openvino'
    if arithmetic == 'float32' and (network.precision == 'fp16' or network.encoding == 'int8'):
        name = 'onnxruntime'
    size = max(bundle.card.height_px, bundle.card.width_px)
    engine = open_network(bundle, network, name, arithmetic=arithmetic)
    found = detect(bundle.card, engine, split, size, rows_px=rows_px)
    return assemble(bundle.folder / network.file, split, found, {}), found


def _judge(
    network: NetworkFile,
    reference: Evaluated,
    judged: Evaluated,
    comparison: Comparison,
    limits: GateLimits,
    optional: bool,
) -> JudgedNetwork:
    (first, found_first), (other, found) = reference, judged
    confidence = comparison.confidence
    met = agreement(found_first.cones, found.cones, confidence)
    small, small_boxes = _small_recall(other, first, confidence, comparison.resamples)
    map50 = comparison['map50'].difference
    falls = [('mAP50', map50, limits.map50)]
    if small_boxes:
        falls.append((f'recall of boxes under {SMALL_PX} px', small, limits.small_recall))
    failures = [
        f'{what} falls by {-figure.value:.4f}, the limit is {limit:g}'
        for what, figure, limit in falls
        if not figure.value >= -limit
    ]
    if not met.boxes:
        failures.append(
            f'FP32 itself finds nothing with a score of {confidence:g}: there is nothing to compare'
        )
    elif met.score_error > limits.score_error:
        failures.append(
            f'scores differ by {met.score_error:.4f}, the limit is {limits.score_error:g}'
        )
    ours, theirs = (metrics(each, confidence=confidence).per_class for each in (first, other))
    return JudgedNetwork(
        kind=comparison.a,
        optional=optional,
        file=network.file,
        runtime=found.runtime,
        map50=map50,
        map50_95=comparison['map50_95'].difference,
        small_recall=small,
        small_boxes=small_boxes,
        per_class={
            name: {
                'truths': figures.truths,
                'map50': (figures.ap50, theirs[name].ap50),
                'map50_95': (figures.ap50_95, theirs[name].ap50_95),
            }
            for name, figures in ours.items()
        },
        agreement=met,
        failures=tuple(failures),
        comparison=comparison,
    )


def _small_recall(
    other: Evaluation, first: Evaluation, confidence: float, resamples: int
) -> tuple[Interval, int]:
    """Difference of the share of small cones found at IoU 0.5, over all classes, and their count.

    Over all of them, not the mean of the classes: one cone of a rare class would decide.
    """
    ranked = [rank(each.matches, 0, SMALL_PX) for each in (other, first)]

    def gained(weights: Int32) -> Float64:
        ours, theirs = (
            np.sum([c.counts(weights, confidence) for c in each], axis=0) for each in ranked
        )
        return share(ours[2] - theirs[2], theirs[0])

    count = sum(int(each.truths.sum()) for each in ranked[1])
    return resampled(gained, first.groups()[0], resamples), count


def table(result: GateResult) -> str:
    """Text with a line for each network and each limit that it breaks."""
    lines = [
        f'{result.split} of {result.data}: {result.pictures} pictures, {result.cones} cones; '
        f'FP32 {result.reference["map50"]:.4f} mAP50, {result.reference["map50_95"]:.4f} mAP50-95. '
        f'Views: {result.views}. All boxes; small: recall of those under {SMALL_PX} px',
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
