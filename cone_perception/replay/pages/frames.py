"""Frames of a replay as pictures: the worst of them, and enough to see any moment of the drive."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from cone_perception.errors import SourceError
from cone_perception.pages.blocks import Block, Bullets, Gallery, Picture, Section, Text, Viewer
from cone_perception.pages.page import embed
from cone_perception.pictures.draw import encode_picture
from cone_perception.replay.figures.accuracy import worst_frames
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.charts import SentFrame, Timeline
from cone_perception.replay.pages.pictures import (
    Place,
    class_names,
    describe,
    draw_frames,
)
from cone_perception.replay.traces import FrameTrace, Pace, Pass

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

Encoded = Mapping[int, bytes | str]
"""id of a frame -> its picture as JPEG, or why there is none."""


def frame_sections(result: ReplayResult, bag: Path | None, timeline: Timeline) -> list[Section]:
    """Sections of the drive's pictures and of its worst frames.

    bag: None, or one that is not there any more: the worst frames are listed instead.
    """
    sent = list(chain.from_iterable(timeline.by_camera(result.passes).values()))
    worst = _worst(result)
    if bag is None or not bag.exists():
        why = 'the bag was not given' if bag is None else f'{bag} is not there any more'
        items = [f'{frame.camera} {frame.index}: {why_shown}' for _, frame, why_shown in worst]
        listed: list[Block] = [Text(f'No pictures: {why}.'), Bullets(items)]
        return [Section(GALLERY, listed if worst else [])]
    spread = np.unique(np.linspace(0, len(sent) - 1, min(VIEWED, len(sent))).round().astype(int))
    chosen = {id(frame) for _, frame, _ in worst}
    viewed = [sent[at] for at in spread if id(sent[at].frame) not in chosen]
    frames = [frame for _, frame, _ in worst] + [each.frame for each in viewed]
    encoded, trouble = _draw(result, bag, frames)
    numbers = {id(each.frame): each.number for each in sent}
    dashes = '' if result.truth is None else ' Dashes: cones that are there.'
    note = f'The slowest, the most wrong, and those where cones vanished.{dashes}'
    if trouble:
        note += f' The bag could not be read to its end: {trouble}'
    gallery = [_worst_picture(result, entry, encoded, numbers) for entry in worst]
    pictures = _viewed_pictures(viewed, encoded)
    said = f'Boxes: cones found, with class and score.{dashes} A click in a chart shows its frame.'
    return [
        Section(VIEWER, [Viewer(pictures, _rate_hz(viewed))], said),
        Section(GALLERY, [Gallery(gallery)], note),
    ]


def _worst(result: ReplayResult) -> list[tuple[int, FrameTrace, str]]:
    """Pass, frame and why it is shown: the worst of every pass in turns, each picture once.

    After the WORST come more for each class that few of them are about.
    """
    names = class_names(result)
    by_pass = []
    for number, frames in enumerate(result.passes):
        traces = {(frame.camera, frame.stamp_ns): frame for frame in reversed(frames)}
        worst = worst_frames(Pass(Pace(), frames), result.truth, names, CANDIDATES)
        by_pass.append([(number, traces[each.camera, each.stamp_ns], each.why) for each in worst])
    once: dict[Place, tuple[int, FrameTrace, str]] = {}
    for entry in chain.from_iterable(zip_longest(*by_pass)):
        if entry is not None:
            once.setdefault((entry[1].camera, entry[1].index), entry)
    candidates = list(once.values())
    chosen = candidates[:WORST]
    for name in names:
        few = WORST_OF_CLASS - sum(name in _classes_in(why, names) for _, _, why in chosen)
        more = [c for c in candidates if c not in chosen and name in _classes_in(c[2], names)]
        chosen += more[: max(few, 0)]
    return chosen


def _classes_in(why: str, names: Collection[str]) -> list[str]:
    return [name for name in names if re.search(rf'(?<!\w){re.escape(name)}(?!\w)', why)]


def _worst_picture(
    result: ReplayResult,
    entry: tuple[int, FrameTrace, str],
    encoded: Encoded,
    numbers: Mapping[int, int],
) -> Picture:
    number, frame, why = entry
    told = encoded.get(id(frame), 'it was not found in the bag')
    which = f'pass {number + 1}, ' if len(result.passes) > 1 else ''
    caption = f'{which}{frame.camera} {frame.index}: {why}'
    tags = _classes_in(why, class_names(result))
    if isinstance(told, str):
        return Picture('', f'{caption}. No picture: {told}.', tags=tags)
    return Picture(embed(told), caption, tags=tags, frame=numbers[id(frame)])


def _viewed_pictures(viewed: Sequence[SentFrame], encoded: Encoded) -> list[Picture]:
    return [
        Picture(embed(jpeg), describe(frame), frame=number)
        for number, _, frame in viewed
        if isinstance(jpeg := encoded.get(id(frame)), bytes)
    ]


def _draw(result: ReplayResult, bag: Path, frames: Sequence[FrameTrace]) -> tuple[Encoded, str]:
    """JPEG of each frame, or why there is none; and what is wrong with the bag, '' if nothing."""
    encoded: dict[int, bytes | str] = {}
    problems: list[str] = []
    try:
        for frame, drawn in draw_frames(result, bag, frames, WIDTH_PX, problems):
            if isinstance(drawn, str):
                encoded[id(frame)] = drawn
            else:
                encoded[id(frame)] = encode_picture('.jpg', drawn, JPEG_QUALITY)
    except SourceError as error:
        problems.append(str(error))
    return encoded, ' '.join(problems)


def _rate_hz(viewed: Sequence[SentFrame]) -> float:
    """Rate at which the pictures take as long as the drive did, within 1 to 30 Hz."""
    duration_s = max((each.at_s for each in viewed), default=0.0)
    return round(min(30.0, max(1.0, len(viewed) / max(duration_s, 1.0))), 2)
