"""Frames of a replay as pictures: the worst of them, and enough to see any moment of the drive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from cone_perception.errors import SourceError
from cone_perception.pages.blocks import Block, Bullets, Gallery, Picture, Section, Text, Viewer
from cone_perception.pages.page import embed
from cone_perception.pictures.draw import encode_picture
from cone_perception.replay.figures.accuracy import WorstFrame, worst_frames
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.charts import SentFrame, Timeline
from cone_perception.replay.pages.pictures import (
    Place,
    class_names,
    describe,
    draw_frames,
)
from cone_perception.replay.traces import FrameTrace

WORST = 12
WORST_OF_CLASS = 4
"""Shown of each class, so that a reader who looks at one class finds some."""

CANDIDATES = 60
VIEWED = 240
"""Pictures to move through; of a longer drive every second or third frame, and so on."""

WIDTH_PX = 720
JPEG_QUALITY = 65

VIEWER = 'The drive, frame by frame'
GALLERY = 'The frames to look at'

Encoded = Mapping[FrameTrace, bytes | str]
"""Frame -> its picture as JPEG, or why there is none."""


def frame_sections(result: ReplayResult, bag: Path | None, timeline: Timeline) -> list[Section]:
    """Sections of the drive's pictures and of its worst frames.

    bag: None, or one that is not there any more: the worst frames are listed instead.
    """
    sent = list(chain.from_iterable(timeline.cameras.values()))
    worst = _worst(result)
    if bag is None or not bag.exists():
        why = 'the bag was not given' if bag is None else f'{bag} is not there any more'
        items = [f'{each.frame.camera} {each.frame.index}: {each.why}' for _, each in worst]
        listed: list[Block] = [Text(f'No pictures: {why}.'), Bullets(items)]
        return [Section(GALLERY, listed if worst else [])]
    spread = np.unique(np.linspace(0, len(sent) - 1, min(VIEWED, len(sent))).round().astype(int))
    chosen = [each.frame for _, each in worst]
    viewed = [sent[at] for at in spread if sent[at].frame not in chosen]
    encoded, trouble = _draw(result, bag, chosen + [each.frame for each in viewed])
    numbers = {each.frame: each.number for each in sent}
    dashes = '' if result.truth is None else ' Dashes: cones that are there.'
    note = f'The slowest, the most wrong, and those where cones vanished.{dashes}'
    if trouble:
        note += f' The bag could not be read to its end: {trouble}'
    gallery = [_worst_picture(result, entry, encoded, numbers) for entry in worst]
    pictures = [
        Picture(embed(jpeg), describe(frame), frame=number)
        for number, _, frame in viewed
        if isinstance(jpeg := encoded.get(frame), bytes)
    ]
    said = f'Boxes: cones found, with class and score.{dashes} A click in a chart shows its frame.'
    return [
        Section(VIEWER, [Viewer(pictures, _rate_hz(viewed))], said),
        Section(GALLERY, [Gallery(gallery)], note),
    ]


def _worst(result: ReplayResult) -> list[tuple[int, WorstFrame]]:
    """Pass and frame: the worst of every pass in turns, each picture once.

    After the WORST come more for each class that few of them are about.
    """
    names = class_names(result)
    by_pass = [
        [(number, each) for each in worst_frames(frames, result.truth, names, CANDIDATES)]
        for number, frames in enumerate(result.passes)
    ]
    once: dict[Place, tuple[int, WorstFrame]] = {}
    for entry in filter(None, chain.from_iterable(zip_longest(*by_pass))):
        once.setdefault((entry[1].frame.camera, entry[1].frame.index), entry)
    candidates = list(once.values())
    chosen = candidates[:WORST]
    for class_id in range(len(names)):
        few = WORST_OF_CLASS - sum(class_id in each.classes for _, each in chosen)
        more = [c for c in candidates if c not in chosen and class_id in c[1].classes]
        chosen += more[: max(few, 0)]
    return chosen


def _worst_picture(
    result: ReplayResult,
    entry: tuple[int, WorstFrame],
    encoded: Encoded,
    numbers: Mapping[FrameTrace, int],
) -> Picture:
    number, (frame, why, classes) = entry
    told = encoded.get(frame, 'it was not found in the bag')
    which = f'pass {number + 1}, ' if len(result.passes) > 1 else ''
    caption = f'{which}{frame.camera} {frame.index}: {why}'
    names = class_names(result)
    tags = [names[class_id] for class_id in sorted(classes)]
    if isinstance(told, str):
        return Picture('', f'{caption}. No picture: {told}.', tags=tags)
    return Picture(embed(told), caption, tags=tags, frame=numbers[frame])


def _draw(result: ReplayResult, bag: Path, frames: Sequence[FrameTrace]) -> tuple[Encoded, str]:
    """JPEG of each frame, or why there is none; and what is wrong with the bag, '' if nothing."""
    encoded: dict[FrameTrace, bytes | str] = {}
    problems: list[str] = []
    try:
        for frame, drawn in draw_frames(result, bag, frames, WIDTH_PX, problems):
            if isinstance(drawn, str):
                encoded[frame] = drawn
            else:
                encoded[frame] = encode_picture('.jpg', drawn, JPEG_QUALITY)
    except SourceError as error:
        problems.append(str(error))
    return encoded, ' '.join(problems)


def _rate_hz(viewed: Sequence[SentFrame]) -> float:
    """Rate at which the pictures take as long as the drive did, within 1 to 30 Hz."""
    duration_s = max((each.at_s for each in viewed), default=0.0)
    return round(min(30.0, max(1.0, len(viewed) / max(duration_s, 1.0))), 2)
