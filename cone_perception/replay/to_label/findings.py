"""A drive -> what a model found in it -> the frames worth a person's labels.

What a model found is read from a replay's result, or the model runs on the drive's pictures. Worth
a label is a frame where the model is unsure, or was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from cone_perception.detect import open_detector
from cone_perception.errors import SourceError
from cone_perception.files import write_whole
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle
from cone_perception.replay.drive.open import bag_sha256
from cone_perception.replay.figures.accuracy import (
    Answers,
    FrameFaults,
    answer_pictures,
    by_stamp,
    find_faults,
    least_scores,
)
from cone_perception.replay.figures.flicker import same_view
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.figures.rows import cone_rows, cones_from
from cone_perception.replay.traces import Camera, Drive, Fate, FrameTrace
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Float32

MARGIN = 0.1
"""A score this far from its class's threshold is no longer in doubt."""

LISTED = 4
"""Scores that a reason names; of the others it says how many there are."""

Kind = Literal['missed', 'false', 'vanished', 'unsure']
KINDS: tuple[Kind, ...] = ('missed', 'false', 'vanished', 'unsure')


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """The cones that a model found in a drive.

    frames: `found` goes below the thresholds where the model was run for this, and each box tells
    its own (Detections.least). thresholds: per class name, of boxes that do not. known: see
    `find_doubts`; the labels too, where it is known.
    """

    drive: Drive
    frames: Sequence[FrameTrace]
    class_names: tuple[str, ...]
    thresholds: Mapping[str, float]
    known: Answers | None


def drive_of(result: ReplayResult, bag: Path) -> Drive:
    """The drive of a replay. Raises SourceError when it was another bag."""
    sha256 = bag_sha256(bag)
    if sha256 != result.bag['sha256']:
        raise SourceError(
            f'{bag} is not the bag of this result, which was {result.bag["path"]}: '
            f'its data has sha256 {sha256[:12]}..., not {result.bag["sha256"][:12]}...'
        )
    cameras = tuple(Camera(**camera) for camera in result.bag['cameras'])
    told = {name: result.bag[name] for name in ('frames', 'duration_s', 'storage')}
    problems = tuple(result.bag.get('problems', ()))
    return Drive(bag, sha256, cameras, **told, truth=result.truth, problems=problems)


def findings_of(result: ReplayResult, drive: Drive) -> Findings:
    """Each frame as the first pass that answered it has it."""
    frames: dict[tuple[str, int], FrameTrace] = {}
    for one in result.passes:
        for frame in one:
            earlier = frames.get((frame.camera, frame.index))
            if earlier is None or earlier.found is None:
                frames[frame.camera, frame.index] = frame
    names = tuple(result.model['class_names'])
    return Findings(drive, list(frames.values()), names, least_scores(result), result.truth)


def run_model(args: argparse.Namespace, drive: Drive, bundle: Bundle, log: Path) -> Findings:
    """Let the model answer each picture, with scores from below its thresholds up."""
    card = bundle.card
    lower = Filters(lower=lambda least: np.maximum(least - np.float32(MARGIN), np.float32(0.01)))
    frames = _answer(args, drive, bundle, lower, log)
    return Findings(drive, frames, card.class_names, card.thresholds, drive.truth)


def run_reference(
    args: argparse.Namespace, drive: Drive, found: Findings, reference: Bundle, log: Path
) -> Answers:
    """Its answers with the class numbers of the model; cones of classes it lacks are left out."""
    index = {name: number for number, name in enumerate(found.class_names)}
    number = np.array([index.get(name, -1) for name in reference.card.class_names], np.int64)
    answers = {}
    answers_of = _answer(args, drive, reference, Filters(), log, found.frames)
    for place, cones in by_stamp(answers_of).items():
        class_id = number[cones.class_id]
        answers[place] = Detections(cones.xyxy_px, cones.score, class_id)[class_id >= 0]
    return answers


def _answer(
    args: argparse.Namespace,
    drive: Drive,
    bundle: Bundle,
    filters: Filters,
    log: Path,
    others: Sequence[FrameTrace] = (),
) -> list[FrameTrace]:
    """Each picture of the drive with its cones; what the log has already is not searched again.

    others: as in `answer_pictures`.
    """
    frames = _read_log(log)
    if len(frames) >= drive.frames:
        return frames
    known = {(frame.camera, frame.index) for frame in frames}
    settings = DetectorSettings(device=args.device, engine=args.engine)
    with (
        open_detector(bundle, settings) as detector,
        log.open('a', encoding='utf-8', buffering=1) as lines,
    ):
        for frame in answer_pictures(drive, detector, filters, bundle.card.name, known, others):
            if frame.fate == 'failed':
                tqdm.write(f'left out: {frame.reason}', file=sys.stderr)
            found = frame.found
            cones = None if found is None else cone_rows(found)
            least = None if found is None or found.least is None else found.least.tolist()
            row = [frame.camera, frame.index, frame.stamp_ns, frame.band_px, cones, least]
            lines.write(json.dumps(row) + '\n')
            frames.append(frame)
    return frames


def _read_log(log: Path) -> list[FrameTrace]:
    """Read the answers of an earlier run; a last line that was cut off is taken away."""
    if not log.is_file():
        return []
    text = log.read_bytes()
    whole = text[: text.rfind(b'\n') + 1]
    if len(whole) < len(text):
        write_whole(log, whole)
    frames = []
    for camera, index, stamp_ns, band_px, cones, *rest in map(json.loads, whole.splitlines()):
        least = np.array(rest[0], np.float32) if any(rest) else None
        found = None
        if cones is not None:
            found = replace(cones_from(cones), band_px=band_px, least=least)
        fate: Fate = 'failed' if found is None else 'answered'
        frames.append(FrameTrace(camera, index, stamp_ns, fate, 0, found=found))
    return frames


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """A frame and why it should be looked at.

    weight: of each cone missed, found falsely or vanished 1, of each score 1 at its threshold down
    to 0 at MARGIN from it; summed. cones: those in doubt. why: for the person who labels.
    """

    frame: FrameTrace
    weight: float
    cones: Mapping[Kind, Detections]
    why: str


def find_doubts(
    frames: Sequence[FrameTrace],
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
    known: Answers | None = None,
    min_height_px: float = 0.0,
) -> list[Doubt]:
    """Answered frames with any doubt, the weightiest first.

    frames: their `found` may go below the thresholds, so that it tells of scores on both sides.
    thresholds: of boxes that do not tell their own (Detections.least).
    known: what is there, for sure (truth) or likely (a reference's answers); None: not known.
    min_height_px: smaller boxes neither count as unsure nor as vanished, missed or false.
    """
    least = np.array([thresholds[name] for name in class_names], np.float32)
    shown = [published(frame, least) for frame in frames]
    faults = find_faults(shown, known, min_height_px)
    doubts = []
    for frame, seen in zip(frames, shown, strict=True):
        found = frame.found
        if found is None:
            continue
        missed, false, gone = faults[seen]
        wrong = FrameFaults(missed, false, gone[gone.height_px >= min_height_px])
        doubt = 1 - np.abs(found.score - _least_of(found, least)) / MARGIN
        doubt[found.height_px < min_height_px] = 0
        unsure = found[doubt > 0]
        weight = sum(map(len, wrong)) + float(doubt[doubt > 0].sum())
        if weight:
            cones = dict(zip(KINDS, (*wrong, unsure), strict=True))
            reasons = (wrong.why(class_names), _tell_unsure(unsure, class_names))
            doubts.append(Doubt(frame, weight, cones, '; '.join(filter(None, reasons))))
    return sorted(doubts, key=lambda doubt: -doubt.weight)


def published(frame: FrameTrace, least: Float32) -> FrameTrace:
    """The frame with cones from their threshold up only.

    least: (classes,) float32, of boxes that do not tell their own.
    """
    found = frame.found
    if found is None:
        return frame
    return replace(frame, found=found[found.score >= _least_of(found, least)])


def _least_of(found: Detections, least: Float32) -> Float32:
    """(N,) float32: the threshold of each box."""
    return least[found.class_id] if found.least is None else found.least


def spread(doubts: Sequence[Doubt], apart_ns: int, limit: int) -> list[Doubt]:
    """The first `limit` in this order that show something new.

    Left out is a frame less than `apart_ns` from one that was taken, of the same camera, and one
    that shows the same view (`same_view`): a car that stands sends the same picture for minutes.
    """
    taken: dict[str, list[tuple[int, Detections]]] = defaultdict(list)
    chosen: list[Doubt] = []
    for doubt in doubts:
        if len(chosen) == limit:
            break
        frame = doubt.frame
        # A driver that sets no stamps is taken for one of 15 Hz.
        time_ns = frame.stamp_ns or frame.index * (10**9 // 15 + 1)
        found = frame.found or Detections.empty()
        if not any(
            abs(time_ns - other_ns) < apart_ns or same_view(found, other)
            for other_ns, other in taken[frame.camera]
        ):
            taken[frame.camera].append((time_ns, found))
            chosen.append(doubt)
    return chosen


def _tell_unsure(unsure: Detections, class_names: Sequence[str]) -> str:
    """`5 with scores near the threshold (blue_cone 0.27, and 4 more)`; '' for none."""
    if not len(unsure):
        return ''
    named = [
        f'{class_names[class_id]} {score:.2f}'
        for score, class_id in zip(unsure.score[:LISTED], unsure.class_id[:LISTED], strict=True)
    ]
    more = [f'and {len(unsure) - LISTED} more'] if len(unsure) > LISTED else []
    return f'{len(unsure)} with scores near the threshold ({", ".join(named + more)})'
