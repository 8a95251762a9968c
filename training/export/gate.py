"""Whether a bundle's quantised networks find what its FP32 network finds.

bundle, labelled split -> predictions of each network -> differences -> limits -> verdict

Same pictures, same code, the pipeline that drives. The limits come from the recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.accuracy.bootstrap import draw
from cone_perception.accuracy.intervals import Interval
from cone_perception.accuracy.matching import IOU_50, Bool, box_iou, match
from cone_perception.dataset.split import LabelledSplit, read_split
from cone_perception.engines.cpu.fastest import networks_for_cpu
from cone_perception.engines.cpu.open import open_network
from cone_perception.engines.cpu.processor import computes_bfloat16
from cone_perception.errors import ModelError
from cone_perception.files import without_nan, write_json
from cone_perception.model_card import Bundle, NetworkFile, read_bundle
from cone_perception.types import Arithmetic, CpuRuntime, Int64
from training.judging.compare import Comparison, compare
from training.judging.evaluate import assemble
from training.judging.evaluation import Evaluation
from training.judging.metrics import FIXED_CONFIDENCE, metrics
from training.judging.predict import detect
from training.judging.predictions import Found, Predictions
from training.recipe.load import load_recipe
from training.recipe.recipe import GateLimits

SMALL_PX = 16
"""Boxes lower than this, at 1280 px picture width, are small."""

SLACK = 0.05
"""A box below the fixed confidence by less than this is not missed: its score error counts."""


Evaluated = tuple[Evaluation, Predictions]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a network finds beside what FP32 finds at the fixed confidence or above.

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
class ClassFigures:
    """One class: (FP32, this network) each; NaN without cones."""

    truths: float
    map50: tuple[float, float]
    map50_95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """One network against FP32.

    kind: of the network, see NetworkFile. optional: a CPU may compute it so, or leave it: its
    failure is not the bundle's. map50, map50_95, small_recall: this less FP32, with the 95 %
    interval over the pictures. small_boxes: that the recall is of. failures: limits it breaks.
    """

    kind: str
    optional: bool
    file: str
    runtime: str
    map50: Interval
    map50_95: Interval
    small_recall: Interval
    small_boxes: int
    per_class: Mapping[str, ClassFigures]
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
    networks: tuple[Judged, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.refusals

    @property
    def refusals(self) -> tuple[Judged, ...]:
        """The networks for whose sake the bundle is refused."""
        return tuple(each for each in self.networks if not (each.passed or each.optional))

    def to_json(self) -> dict[str, Any]:
        """As gate.json holds it; null for what is not defined."""
        stored = asdict(self)
        stored['passed'] = self.passed
        stored['networks'] = {
            judged.kind: {'passed': judged.passed, **asdict(judged)} for judged in self.networks
        }
        cleaned: dict[str, Any] = without_nan(stored)
        return cleaned

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bundle', type=Path, help='model bundle with an FP32 network')
    parser.add_argument('--data', type=Path, required=True, help='YOLO data set with data.yaml')
    parser.add_argument('--split', default='val', help='(default: val)')
    add_limits(parser)
    parser.add_argument('--json', type=Path, help='write all figures here')


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The arguments that `limits_from` reads."""
    usual = GateLimits()
    parser.add_argument('--recipe', type=Path, help='take the limits from its section `gate`')
    for entry, meaning in (
        ('map50', 'most that mAP50 may fall'),
        ('small_recall', f'most that the recall of boxes under {SMALL_PX} px may fall'),
        ('score_error', 'most that scores may differ by, mean'),
    ):
        parser.add_argument(
            f'--limit-{entry.replace("_", "-")}',
            type=float,
            metavar='SHARE',
            help=f'{meaning} (default: {getattr(usual, entry)})',
        )
    parser.add_argument(
        '--confidence',
        type=float,
        default=FIXED_CONFIDENCE,
        help='boxes of FP32 above it are compared (default: %(default)s)',
    )
    parser.add_argument('--resamples', type=int, default=1000, help='(default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Judge and print; status 1 when a network fails."""
    bundle = read_bundle(args.bundle)
    result = judge_bundle(
        bundle,
        read_split(args.data, args.split),
        limits_from(args),
        confidence=args.confidence,
        resamples=args.resamples,
    )
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
    first = reference[0]
    ways: list[tuple[NetworkFile, Arithmetic]] = [(network, 'float32') for network in judged]
    if bfloat16 and computes_bfloat16():
        ways += [(network, 'bfloat16') for network in networks_for_cpu(bundle.card, 1)]
    networks, notes = [], list[str]()
    for network, arithmetic in ways:
        own = evaluate_network(bundle, network, split, arithmetic)
        comparison = compare(
            own[0],
            first,
            resamples,
            names=(network.kind(arithmetic), 'fp32'),
            confidence=confidence,
        )
        notes += [note for note in comparison.warnings if not note.startswith(('precision', 'One'))]
        networks.append(
            _judge(
                network,
                arithmetic,
                reference,
                own,
                comparison,
                limits,
                confidence,
                resamples,
            )
        )
    if not networks[0].small_boxes:
        notes.append(f'no cone under {SMALL_PX} px: their recall is not judged')
    figures = metrics(first, confidence=confidence)
    return GateResult(
        data=_data_name(split.data),
        split=split.split,
        data_sha256=split.sha256,
        pictures=len(split),
        cones=first.truth_count,
        confidence=confidence,
        reference={'map50': figures.map50, 'map50_95': figures.map50_95},
        limits=limits,
        networks=tuple(networks),
        notes=tuple(dict.fromkeys(notes)),
    )


def agreement(reference: Sequence[Found], found: Sequence[Found], confidence: float) -> Agreement:
    """Compare what two networks found in the same pictures, class by class at IoU 0.5."""
    errors: list[float] = []
    overlaps: list[float] = []
    boxes = missed = extra = 0
    for all_ours, theirs in zip(reference, found, strict=True):
        ours, sure = _above(all_ours, confidence), _above(theirs, confidence)
        boxes += len(ours.score)
        match = _matches(theirs, ours)
        partner = np.flatnonzero(match >= 0)
        error = ours.score.astype(np.float64)
        error[match[partner]] = np.abs(theirs.score[partner] - ours.score[match[partner]])
        errors += error.tolist()
        pairs = box_iou(theirs.box_px[partner], ours.box_px[match[partner]])
        overlaps += pairs.diagonal().tolist()
        missed += _without_partner(ours, _above(theirs, confidence - SLACK))
        extra += _without_partner(sure, _above(all_ours, confidence - SLACK))
    return Agreement(
        boxes,
        float(np.mean(errors)) if errors else float('nan'),
        float(np.percentile(errors, 95)) if errors else float('nan'),
        missed,
        extra,
        float(np.mean(overlaps)) if overlaps else float('nan'),
    )


def table(result: GateResult) -> str:
    """What is printed: a line for each network and each limit that it breaks."""
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


def evaluate_network(
    bundle: Bundle,
    network: NetworkFile,
    split: LabelledSplit,
    arithmetic: Arithmetic = 'float32',
) -> Evaluated:
    """What a network finds, and how it compares with the labels.

    FP32, OpenVINO's INT8 and bfloat16 in OpenVINO; what is for TensorRT in ONNX Runtime, which
    rounds every result to FP16 where the file says so.
    """
    name: CpuRuntime = 'openvino'
    if arithmetic == 'float32' and (network.precision == 'fp16' or network.encoding == 'int8'):
        name = 'onnxruntime'
    size = max(bundle.card.height_px, bundle.card.width_px)
    engine = open_network(bundle, network, name, arithmetic=arithmetic)
    found = detect(bundle.card, engine, split, size)
    return assemble(bundle.folder / network.file, split, found, {}), found


def _judge(
    network: NetworkFile,
    arithmetic: Arithmetic,
    reference: Evaluated,
    judged: Evaluated,
    comparison: Comparison,
    limits: GateLimits,
    confidence: float,
    resamples: int,
) -> Judged:
    (first, found_first), (other, found) = reference, judged
    met = agreement(found_first.pictures, found.pictures, confidence)
    small, small_boxes = _small_recall(other, first, confidence, resamples)
    map50 = comparison['map50'].difference
    failures = []
    if not map50.value >= -limits.map50:
        failures.append(f'mAP50 falls by {-map50.value:.4f}, the limit is {limits.map50:g}')
    if small_boxes and not small.value >= -limits.small_recall:
        failures.append(
            f'recall of boxes under {SMALL_PX} px falls by {-small.value:.4f}, the limit is '
            f'{limits.small_recall:g}'
        )
    if not met.boxes:
        failures.append(
            f'FP32 itself finds nothing with a score of {confidence:g}: there is nothing to compare'
        )
    elif met.score_error > limits.score_error:
        failures.append(
            f'scores differ by {met.score_error:.4f}, the limit is {limits.score_error:g}'
        )
    figures = [metrics(each, confidence=confidence) for each in (first, other)]
    return Judged(
        kind=network.kind(arithmetic),
        optional=arithmetic != 'float32',
        file=network.file,
        runtime=found.runtime,
        map50=map50,
        map50_95=comparison['map50_95'].difference,
        small_recall=small,
        small_boxes=small_boxes,
        per_class={
            name: ClassFigures(
                a.truths,
                (a.ap50, figures[1].per_class[name].ap50),
                (a.ap50_95, figures[1].per_class[name].ap50_95),
            )
            for name, a in figures[0].per_class.items()
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
    small = first.truth_height_px < SMALL_PX
    pictures = len(first.image_names)
    there = np.bincount(first.truth_image[small], minlength=pictures)
    found = [
        np.bincount(first.truth_image[small & _is_found(each, confidence)], minlength=pictures)
        for each in (other, first)
    ]
    gained = found[0] - found[1]
    count = int(there.sum())
    if not count:
        return Interval(float('nan')), 0
    group, _ = first.groups()
    weights = np.concatenate(list(draw(group, resamples, 0)))
    drawn = (weights @ gained) / np.maximum(weights @ there, 1)
    low, high = np.percentile(drawn[weights @ there > 0], [2.5, 97.5])
    return Interval(float(gained.sum() / count), float(low), float(high)), count


def _is_found(evaluation: Evaluation, confidence: float) -> Bool:
    """(T,) bool: cones that a detection of the fixed confidence is, at IoU 0.5."""
    match = evaluation.detection_match[evaluation.detection_score >= confidence, 0]
    found = np.zeros(evaluation.truth_count, bool)
    found[match[match >= 0]] = True
    return found


def _above(found: Found, confidence: float) -> Found:
    kept = found.score >= confidence
    return Found(
        found.box_px[kept],
        found.score[kept],
        found.class_id[kept],
        found.network_box[kept],
        found.network_truth,
    )


def _matches(found: Found, reference: Found) -> Int64:
    """(N,) int64: which box of the reference each one is, by class at IoU 0.5; -1: none."""
    boxes = (found.box_px, found.class_id, reference.box_px, reference.class_id)
    same, _ = match(*boxes, IOU_50)
    return same[:, 0]


def _without_partner(boxes: Found, others: Found) -> int:
    """How many boxes are none of the others."""
    return int((_matches(boxes, others) < 0).sum())


def _data_name(data: Path) -> str:
    folder = data.resolve()
    return (folder if folder.is_dir() else folder.parent).name


def _rounded(value: Any) -> Any:
    """The same with numbers of five decimals, for people."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 5) if isinstance(value, float) else value


def _summary(judged: Judged) -> dict[str, Any]:
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
