"""Frames of a drive that are worth a person's labels: where the model is unsure, or was wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cone_perception.accuracy.matching import find_errors
from cone_perception.replay.figures.accuracy import Answers, tell_errors, tell_flicker
from cone_perception.replay.figures.flicker import find_flicker, same_view
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import Detections, Float32

MARGIN = 0.1
"""A score this far from its class's threshold is no longer in doubt."""

PERIOD_NS = 10**9 // 15 + 1

LISTED = 4
"""Scores that a reason names; of the others it says how many there are."""

Kind = Literal['missed', 'false', 'vanished', 'unsure']
KINDS: tuple[Kind, ...] = ('missed', 'false', 'vanished', 'unsure')


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A box of a picture that is in doubt. xyxy_px: (4,) float32."""

    kind: Kind
    xyxy_px: Float32
    class_id: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """A frame and why it should be looked at.

    weight: of each cone missed, found falsely or vanished 1, of each score 1 at its threshold down
    to 0 at MARGIN from it; summed. counts: cones of each kind. why: for the person who labels.
    """

    frame: FrameTrace
    weight: float
    counts: Mapping[Kind, int]
    marks: Sequence[Mark]
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
    known: what is there, for sure (truth) or likely (a reference's answers); None: not known.
    min_height_px: smaller boxes neither count as unsure nor as vanished, missed or false.
    """
    least = np.array([thresholds[name] for name in class_names], np.float32)
    flickers = {
        (each.frame.camera, each.frame.index): each
        for each in find_flicker([_only_published(frame, least) for frame in frames])
    }
    doubts = []
    for frame in frames:
        if frame.found is None:
            continue
        marks: list[Mark] = []
        reasons: list[str] = []
        cones = None if known is None else known.get((frame.camera, frame.stamp_ns))
        if cones is not None:
            missed, false = find_errors(published(frame.found, least), cones, min_height_px)
            marks += [*_marks('missed', missed), *_marks('false', false)]
            reasons.append(tell_errors(missed, false, class_names))
        flicker = flickers.get((frame.camera, frame.index))
        gone = _tall(flicker.gone, min_height_px) if flicker else Detections.empty()
        if len(gone):
            marks += _marks('vanished', gone)
            reasons.append(tell_flicker(gone, class_names))
        weight = float(len(marks))
        found = _tall(frame.found, min_height_px)
        doubt = 1 - np.abs(found.score - least[found.class_id]) / MARGIN
        unsure = found[doubt > 0]
        if len(unsure):
            marks += _marks('unsure', unsure)
            reasons.append(_tell_unsure(unsure, class_names))
            weight += float(doubt[doubt > 0].sum())
        if marks:
            counts = {kind: sum(mark.kind == kind for mark in marks) for kind in KINDS}
            doubts.append(Doubt(frame, weight, counts, marks, '; '.join(filter(None, reasons))))
    return sorted(doubts, key=lambda doubt: -doubt.weight)


def published(found: Detections, least: Float32) -> Detections:
    """Keep those from their class's threshold up. least: (classes,) float32."""
    return found[found.score >= least[found.class_id]]


def spread(doubts: Sequence[Doubt], apart_ns: int, limit: int) -> list[Doubt]:
    """The first `limit` in this order that show something new.

    Left out is a frame less than `apart_ns` from one that was taken, of the same camera, and one
    that shows the same view (`same_view`): a car that stands sends the same picture for minutes.
    """
    taken: dict[str, list[Doubt]] = defaultdict(list)
    chosen: list[Doubt] = []
    for doubt in doubts:
        if len(chosen) == limit:
            break
        frame = doubt.frame
        near = any(
            abs(_time_ns(frame) - _time_ns(other.frame)) < apart_ns
            or same_view(frame.found or Detections.empty(), other.frame.found or Detections.empty())
            for other in taken[frame.camera]
        )
        if not near:
            taken[frame.camera].append(doubt)
            chosen.append(doubt)
    return chosen


def _time_ns(frame: FrameTrace) -> int:
    """Give the time of its stamp; a driver that sets none is taken for one of 15 Hz."""
    return frame.stamp_ns or frame.index * PERIOD_NS


def _only_published(frame: FrameTrace, least: Float32) -> FrameTrace:
    return frame if frame.found is None else replace(frame, found=published(frame.found, least))


def _tall(cones: Detections, min_height_px: float) -> Detections:
    return cones[cones.height_px >= min_height_px]


def _marks(kind: Kind, cones: Detections) -> list[Mark]:
    return [
        Mark(kind, box, int(class_id), float(score))
        for box, score, class_id in zip(cones.xyxy_px, cones.score, cones.class_id, strict=True)
    ]


def _tell_unsure(unsure: Detections, class_names: Sequence[str]) -> str:
    """`5 with scores near the threshold (blue_cone 0.27, blue_cone 0.31, and 3 more)`."""
    named = [
        f'{class_names[class_id]} {score:.2f}'
        for score, class_id in zip(unsure.score[:LISTED], unsure.class_id[:LISTED], strict=True)
    ]
    more = [f'and {len(unsure) - LISTED} more'] if len(unsure) > LISTED else []
    return f'{len(unsure)} with scores near the threshold ({", ".join(named + more)})'
