"""The answers of an engine, compared with stored ones of FP32, and the time that it takes.

A bundle holds `reference.npz`: rendered pictures, letterboxed, and what the FP32 network puts out
for them. An engine must give the same cones on this machine before it may drive.
"""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.accuracy.intervals import Float64
from cone_perception.accuracy.matching import box_iou, match_detections
from cone_perception.engines import Engine
from cone_perception.engines.decode import decode
from cone_perception.engines.tensorrt.plans import record_check
from cone_perception.errors import ModelError, RefusedPlanError, told_as
from cone_perception.files import without_nan
from cone_perception.model_card import Bundle, ModelCard, file_sha256
from cone_perception.types import Detections, Float32, Int64, Precision, UInt8

REFERENCE_FILE = 'reference.npz'
"""inputs: (N, H, W, 3) uint8 BGR, letterboxed. outputs: (N, ...) float32, of the FP32 network."""

LEAST_SCORE = 0.02
"""Below this there is nothing to compare."""

SURE = 0.15
"""A box this far above its class's threshold must be found by both: nearer, rounding decides."""

WARM_UP_RUNS = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the difference between an engine and FP32.

    score_error: mean over the matched boxes. lost: share of the sure boxes of one side that the
    other lacks; one is always allowed. mean_iou: least mean overlap of the matched boxes.
    """

    score_error: float
    lost: float
    mean_iou: float


LIMITS: Mapping[Precision, Limits] = {
    'int8': Limits(score_error=0.05, lost=0.05, mean_iou=0.90),
    'fp16': Limits(score_error=0.02, lost=0.02, mean_iou=0.95),
    'fp32': Limits(score_error=0.01, lost=0.01, mean_iou=0.98),
}
"""INT8 as the gate's default; an engine that is wrongly built misses them by far."""


@dataclass(frozen=True, slots=True)
class Check:
    """An engine beside the FP32 reference.

    reasons: what is beyond the limits; empty when it passed. pictures, boxes: compared, boxes of
    FP32. missed, extra: sure boxes that only FP32, only the engine has. mean_iou, score_error_mean,
    score_error_p95: of the boxes that both have; NaN becomes None in JSON.
    """

    reasons: tuple[str, ...]
    pictures: int
    boxes: int
    missed: int
    extra: int
    mean_iou: float
    score_error_mean: float
    score_error_p95: float

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """For the passport and for JSON."""
        return {'passed': self.passed, **without_nan(self)}


def read_reference(bundle: Bundle) -> tuple[UInt8, Float32]:
    """The bundle's stored pictures and FP32 outputs. Raises ModelError where they are not whole."""
    path = bundle.folder / REFERENCE_FILE
    card = bundle.card
    if not path.is_file():
        raise ModelError(
            f'{path} is missing: without it nobody knows whether an engine is right. '
            'Export the model again.'
        )
    if card.other_files.get(REFERENCE_FILE) != file_sha256(path):
        raise ModelError(
            f'{path} is not the file that the card lists. Copy the whole bundle, or export again.'
        )
    # An empty file, a bare array and texts in its place raise these, too.
    others = EOFError, TypeError, AttributeError
    causes = OSError, ValueError, KeyError, zipfile.BadZipFile, *others
    what, advice = f'{path} cannot be read', 'Export the model again.'
    damaged = told_as(ModelError, what, *causes, advice=advice)
    with damaged, np.load(path, allow_pickle=False) as arrays:
        inputs, outputs = arrays['inputs'], arrays['outputs'].astype(np.float32)
    shape = (card.height_px, card.width_px, 3)
    if inputs.dtype != np.uint8 or inputs.shape[1:] != shape or len(inputs) != len(outputs):
        raise ModelError(
            f'{path} holds {inputs.dtype} pictures {inputs.shape} and {len(outputs)} outputs, but '
            f'the card says {shape}. Export the model again.'
        )
    return inputs, outputs


def check_engine(engine: Engine, bundle: Bundle) -> Check:
    """Run the reference pictures and compare. Raises ModelError, EngineError."""
    inputs, expected = read_reference(bundle)
    answers = run_all(engine, inputs)
    precision = engine.info.precision
    if precision == 'fp32' and engine.info.arithmetic == 'bfloat16':
        precision = 'fp16'
    return compare_outputs(answers, expected, bundle.card, precision)


def check_plan(engine: Engine, bundle: Bundle, plan: Path) -> Check:
    """Check an engine, note the result in its plan's passport, or raise RefusedPlanError."""
    check = check_engine(engine, bundle)
    record_check(plan, check.to_dict())
    if not check.passed:
        raise RefusedPlanError(
            f'the {engine.info.precision} engine of {bundle.card.name} does not answer as FP32 '
            f'does: {"; ".join(check.reasons)}. It may not drive: take another precision, and '
            'report it with `cone-perception verify-engine`.'
        )
    return check


def run_all(engine: Engine, pictures: UInt8) -> Float32:
    """Outputs for any number of pictures; the last batch is filled up with its last picture."""
    batch = engine.info.input_shape[0]
    outputs = []
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        outputs.append(np.array(engine.run(np.ascontiguousarray(filled)))[: len(part)])
    joined: Float32 = np.concatenate(outputs)
    return joined


def compare_outputs(
    answers: Float32, expected: Float32, card: ModelCard, precision: Precision
) -> Check:
    """Compare raw outputs, both (N, ...) float32, as cones.

    Raises ModelError when the shapes differ or the values are no numbers.
    """
    if answers.shape != expected.shape:
        raise ModelError(
            f'the engine puts out {answers.shape}, the reference {expected.shape}: they are of '
            'different exports. Export the model again.'
        )
    scale = _scale(expected, card)
    thresholds = np.array([card.thresholds[name] for name in card.class_names], np.float32) * scale
    missed = extra = sure_here = sure_there = boxes = 0
    overlaps, errors = [], []
    for answer, reference in zip(answers, expected, strict=True):
        here, there = (
            decode(output, card.output_layout, thresholds, card.nms_iou)
            for output in (answer, reference)
        )
        boxes += len(there)
        i, j, overlap = match_pairs(here, there)
        overlaps += overlap.tolist()
        errors += np.abs(here.score[i] - there.score[j]).tolist()
        sure = [found.score >= thresholds[found.class_id] + SURE * scale for found in (here, there)]
        sure_here, sure_there = sure_here + sure[0].sum(), sure_there + sure[1].sum()
        extra += int(np.delete(sure[0], i).sum())
        missed += int(np.delete(sure[1], j).sum())
    (mean_iou, _), (mean, p95) = mean_and_p95(overlaps), mean_and_p95(errors)
    limits = LIMITS[precision]
    reasons = []
    if not sure_there:
        reasons.append('the reference holds no sure cone, so it proves nothing')
    elif not overlaps:
        reasons.append(f'none of the {boxes} cones of the reference is found')
    else:
        if mean > (allowed := limits.score_error * scale):
            reasons.append(f'scores differ by {mean:.3f} on average, {allowed:.3f} allowed')
        if mean_iou < limits.mean_iou:
            reasons.append(f'boxes overlap by {mean_iou:.3f}, at least {limits.mean_iou} needed')
    if missed > max(1, limits.lost * sure_there):
        reasons.append(f'{missed} of {sure_there} sure cones are missed')
    if extra > max(1, limits.lost * sure_here):
        reasons.append(f'{extra} of {sure_here} sure cones are not in the reference')
    return Check(tuple(reasons), len(answers), boxes, missed, extra, mean_iou, mean, p95)


def mean_and_p95(values: Sequence[float]) -> tuple[float, float]:
    """Mean and 95th percentile; NaN without a value."""
    if not len(values):
        return math.nan, math.nan
    return float(np.mean(values)), float(np.percentile(values, 95))


def match_pairs(here: Detections, there: Detections) -> tuple[Int64, Int64, Float32]:
    """(M,) each: indices of the boxes that are the same cone, here and there, and their IoU."""
    cone = match_detections(here, there)
    matched = np.flatnonzero(cone >= 0)
    overlap = box_iou(here.xyxy_px[matched], there.xyxy_px[cone[matched]]).diagonal()
    return matched, cone[matched], overlap


def _scale(expected: Float32, card: ModelCard) -> float:
    """Less than 1 where FP32 itself is hardly sure of anything in these pictures.

    A model of real pictures may give rendered cones low scores only. Then they are compared by as
    much lower thresholds and limits.
    """
    scores = expected[:, 4:] if card.output_layout == 'anchors' else expected[:, :, 4]
    best = float(scores.max())
    confident = min(card.thresholds.values()) + 2 * SURE
    return min(1.0, best / confident) if best >= LEAST_SCORE else 1.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the picture in host memory to the answer in host memory."""

    median_ms: float
    p99_ms: float
    runs: int


def measure_latencies(works: Sequence[Callable[[], object]], runs: int) -> list[Latency]:
    """Latency of each, see `measure_rounds`."""
    return [
        Latency(float(np.median(times_ms)), float(np.percentile(times_ms, 99)), runs)
        for times_ms in measure_rounds(works, runs).T
    ]


def measure_rounds(
    works: Sequence[Callable[[], object]], rounds: int, warm_up: int = WARM_UP_RUNS
) -> Float64:
    """Time works in turns, so that a clock or another program that changes hits them alike.

    warm_up: runs of each before that. Returns milliseconds, (rounds, works). Each round begins with
    another one.
    """
    for work in works:
        for _ in range(warm_up):
            work()
    times_ms = np.zeros((rounds, len(works)))
    for number, of_round in enumerate(times_ms):
        for index in np.roll(range(len(works)), -number):
            started = time.perf_counter_ns()
            works[index]()
            of_round[index] = (time.perf_counter_ns() - started) / 1e6
    return times_ms


def run_of(engine: Engine, pictures: UInt8) -> Callable[[], object]:
    """One run of the engine on (N, H, W, 3) pictures, repeated where its batch takes more."""
    count = engine.info.input_shape[0]
    return partial(engine.run, np.resize(pictures, (count, *pictures.shape[1:])))
