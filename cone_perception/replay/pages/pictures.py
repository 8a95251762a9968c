"""Pictures of a replayed bag, with what was found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from cone_perception.bags.reader import BagMessage, bag_types, open_bag, read_until_damage
from cone_perception.errors import ImageError
from cone_perception.images import to_bgr
from cone_perception.pictures.draw import draw_caption, draw_cones, shrink
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.charts import FATE_LOOKS
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import Detections, UInt8

Place = tuple[str, int]
"""A picture of a bag: name of its camera, and its index among the camera's pictures."""

BORDER_SHARE = 0.012
RED = (60, 60, 230)


def read_pictures(
    bag: Path, topics: Mapping[str, str], wanted: Collection[Place], problems: list[str]
) -> Iterator[tuple[Place, UInt8 | str]]:
    """Each picture that is wanted, or why it cannot be decoded, in the order of recording.

    topics: camera name -> topic. Damage ends it: what is wrong is appended to `problems`.
    Raises SourceError when the bag cannot be opened.
    """
    cameras = {topic: name for name, topic in topics.items()}
    seen: Counter[str] = Counter()
    left = set(wanted)
    with open_bag(bag) as reader:
        for message in read_until_damage(reader, cameras, problems):
            place = (cameras[message.topic], seen[message.topic])
            seen[message.topic] += 1
            if place in left:
                yield place, _decode(message)
                left.discard(place)
            if not left:
                return


def draw_frames(
    result: ReplayResult,
    bag: Path,
    frames: Sequence[FrameTrace],
    width_px: int,
    problems: list[str],
) -> Iterator[tuple[FrameTrace, UInt8 | str]]:
    """Each frame's annotated picture, or why there is none, in the order of recording.

    What is wrong with the bag is appended to `problems`, as by read_pictures.
    """
    wanted: dict[Place, list[FrameTrace]] = {}
    for frame in frames:
        wanted.setdefault((frame.camera, frame.index), []).append(frame)
    names, truth = class_names(result), result.truth or {}
    for place, picture in read_pictures(bag, topics_of(result), wanted, problems):
        for frame in wanted[place]:
            if not isinstance(picture, str):
                there = truth.get((frame.camera, frame.stamp_ns))
                yield frame, annotate(picture, frame, names, there, width_px)
            else:
                yield frame, picture


def annotate(
    bgr: UInt8,
    frame: FrameTrace,
    class_names: Sequence[str],
    truth: Detections | None,
    width_px: int,
) -> UInt8:
    """Found cones as boxes, those that are there as dashes; at most `width_px` wide.

    A frame that was lost has a red border.
    """
    found = frame.found or Detections.empty()
    small, found, truth = shrink(bgr, found, truth, width_px)
    picture = draw_cones(small, found, class_names, truth)
    if frame.fate != 'answered':
        draw_border(picture)
    draw_caption(picture, describe(frame))
    return picture


def tile(
    pictures: Sequence[UInt8 | None],
    columns: int,
    size_px: tuple[int, int],
    gap_px: int = 0,
    ground: int = 0,
) -> UInt8:
    """Pictures side by side, row by row, fitted into places of one size, their proportions kept.

    size_px: height, width of a place. ground: grey of gaps and of places without a picture.
    """
    height, width = (length + gap_px for length in size_px)
    rows = -(-len(pictures) // columns)
    shape = (rows * height + gap_px, columns * width + gap_px, 3)
    whole = np.full(shape, ground, np.uint8)
    for number, picture in enumerate(pictures):
        if picture is None:
            continue
        scale = min(size_px[0] / picture.shape[0], size_px[1] / picture.shape[1])
        if scale != 1:
            fitted_px = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
            picture = cv2.resize(picture, fitted_px, interpolation=cv2.INTER_AREA)
        row, column = divmod(number, columns)
        top, left = gap_px + row * height, gap_px + column * width
        whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return whole


def draw_border(picture: UInt8) -> None:
    """Draw the red border of what was lost."""
    height_px, width_px = picture.shape[:2]
    wide_px = max(3, round(BORDER_SHARE * width_px))
    inset = wide_px // 2
    corner = (width_px - 1 - inset, height_px - 1 - inset)
    cv2.rectangle(picture, (inset, inset), corner, RED, wide_px)


def class_names(result: ReplayResult) -> list[str]:
    """In the order of class indices; enough of them for every cone of the result."""
    names = [str(name) for name in result.model.get('class_names') or ()]
    answers = (frame.found for frames in result.passes for frame in frames)
    cones = chain((found for found in answers if found is not None), (result.truth or {}).values())
    highest = max((int(each.class_id.max(initial=-1)) for each in cones), default=-1)
    return [*names, *(f'class {number}' for number in range(len(names), highest + 1))]


def topics_of(result: ReplayResult) -> dict[str, str]:
    """Camera name -> topic."""
    return {str(camera['name']): str(camera['topic']) for camera in result.bag.get('cameras', ())}


def describe(frame: FrameTrace) -> str:
    """A caption: which picture, and what became of it."""
    which = f'{frame.camera} {frame.index}  {frame.stamp_ns / 1e9:.3f} s  '
    if frame.fate != 'answered':
        return which + FATE_LOOKS[frame.fate].name
    latency = '' if frame.latency_ms is None else f'{frame.latency_ms:.0f} ms  '
    return f'{which}{latency}{len(frame.found or ())} cones'


def _decode(message: BagMessage) -> UInt8 | str:
    try:
        return to_bgr(bag_types().deserialize_cdr(message.data, message.type_name))
    except ImageError as error:
        return str(error)
    except Exception as error:  # a damaged message raises whatever its parser tripped over
        return f'it is damaged: {error!r}'
