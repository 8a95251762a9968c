"""Pictures of a replayed bag with what was found in them: on the page, and as a film."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.bags.reader import open_bag, picture_message, read_messages
from cone_perception.errors import ImageError, SourceError
from cone_perception.images import to_bgr
from cone_perception.pages.blocks import Block, Bullets, Gallery, Picture, Section, Text, Viewer
from cone_perception.pages.page import embed
from cone_perception.pictures.draw import Film, draw_caption, draw_cones, encode_picture, shrink
from cone_perception.replay.figures.accuracy import WorstFrame, worst_frames
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.charts import Timeline, describe
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import Detections, UInt8

Place = tuple[str, int]
"""A picture of a bag: name of its camera, and its index among the camera's pictures."""

DEFAULT_RATE_HZ = 15.0

WORST = 12
WORST_OF_CLASS = 4
"""Shown of each class, so that a reader who looks at one class finds some."""

VIEWED = 240
"""Pictures to move through; of a longer drive every second or third frame, and so on."""

GALLERY = 'The frames to look at'


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
        for message in read_messages(reader, cameras, problems=problems):
            place = (cameras[message.topic], seen[message.topic])
            seen[message.topic] += 1
            if place in left:
                try:
                    yield place, to_bgr(picture_message(message))
                except ImageError as error:
                    yield place, str(error)
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

    Found cones are boxes, those that are there dashes; at most `width_px` wide. A frame that was
    lost has a red border. What is wrong with the bag is appended to `problems`, as by
    read_pictures.
    """
    wanted: dict[Place, list[FrameTrace]] = {}
    for frame in frames:
        wanted.setdefault((frame.camera, frame.index), []).append(frame)
    names, truth = class_names(result), result.truth or {}
    for place, picture in read_pictures(bag, topics_of(result), wanted, problems):
        for frame in wanted[place]:
            if isinstance(picture, str):
                yield frame, picture
                continue
            there = truth.get((frame.camera, frame.stamp_ns))
            found = frame.found or Detections.empty()
            small, found, there = shrink(picture, found, there, width_px)
            drawn = draw_cones(small, found, names, there)
            if frame.lost:
                draw_border(drawn)
            draw_caption(drawn, describe(frame))
            yield frame, drawn


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
    wide_px = max(3, round(0.012 * width_px))
    inset = wide_px // 2
    corner = (width_px - 1 - inset, height_px - 1 - inset)
    cv2.rectangle(picture, (inset, inset), corner, (60, 60, 230), wide_px)


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


def write_film(path: Path, result: ReplayResult, bag: Path, number: int = 0) -> None:
    """Write the film of one pass; `number` counts from 0.

    Several cameras are side by side, two in a row or more, each as large as the film's first
    picture; one that has no new picture is dark.
    A frame that was lost has a red border. Frames that were not sent any more are not shown, nor
    those that only another one's cones were found again in.
    Of a bag that is damaged further on it shows what comes before that, as the replay did.
    Raises SourceError when the bag cannot be opened or none of its pictures was sent, OutputError
    when the film cannot be written.
    """
    played = result.passes[number] if number < len(result.passes) else ()
    frames = [frame for frame in played if frame.wanted]
    names = [name for name in topics_of(result) if any(frame.camera == name for frame in frames)]
    if not names:
        raise SourceError(f'pass {number + 1} has no frame of which a film could be made.')
    film = Film(path, _rate_hz(frames))
    width_px = 1280 if len(names) == 1 else 960  # at most, of each picture
    columns = math.ceil(math.sqrt(len(names)))
    size: tuple[int, int] | None = None
    try:
        for shown in _rounds(_drawn(result, bag, frames, width_px)):
            size = size or next(iter(shown.values()))[0].shape[:2]
            dimmed = {name: each if new else each // 4 for name, (each, new) in shown.items()}
            film.add(tile([dimmed.get(name) for name in names], columns, size))
    finally:
        film.close()


def _drawn(
    result: ReplayResult, bag: Path, frames: Sequence[FrameTrace], width_px: int
) -> Iterator[tuple[str, UInt8]]:
    """Camera and annotated picture of each frame, in the order of recording."""
    sizes: dict[str, tuple[int, ...]] = {}
    drawn = draw_frames(result, bag, frames, width_px, [])
    for frame, picture in tqdm(drawn, 'filming', total=len(frames), unit='picture'):
        if isinstance(picture, str):  # a dark one that says why
            reason = picture
            picture = np.full((*sizes.get(frame.camera, (360, 640)), 3), 24, np.uint8)
            draw_border(picture)
            draw_caption(picture, f'{describe(frame)}: {reason}')
        sizes[frame.camera] = picture.shape[:2]
        yield frame.camera, picture


def _rounds(drawn: Iterable[tuple[str, UInt8]]) -> Iterator[dict[str, tuple[UInt8, bool]]]:
    """Camera -> its latest picture, and whether it is new, each time that one has a second one."""
    shown: dict[str, tuple[UInt8, bool]] = {}
    for camera, picture in drawn:
        if shown.get(camera, (picture, False))[1]:
            yield shown
            shown = {name: (latest, False) for name, (latest, _) in shown.items()}
        shown[camera] = (picture, True)
    if shown:
        yield shown


def _rate_hz(frames: Sequence[FrameTrace]) -> float:
    """The usual rate of the fastest camera by its stamps: the film runs as the drive did."""
    rates = []
    for camera in {frame.camera for frame in frames}:
        stamps = sorted(frame.stamp_ns for frame in frames if frame.camera == camera)
        gaps = [after - before for before, after in pairwise(stamps) if after > before]
        if gaps:
            rates.append(1e9 / median(gaps))
    return max(rates, default=DEFAULT_RATE_HZ)


def frame_sections(result: ReplayResult, bag: Path | None, timeline: Timeline) -> list[Section]:
    """Sections of the drive's pictures and of its worst frames.

    bag: None, or one that is not there any more: the worst frames are listed instead.
    """
    every = chain.from_iterable(timeline.cameras.values())
    sent = [each for each in every if each.frame.wanted]
    worst = _worst(result)
    if bag is None or not bag.exists():
        why = 'the bag was not given' if bag is None else f'{bag} is not there any more'
        items = [each.why for each in worst]
        listed: list[Block] = [Text(f'No pictures: {why}.'), Bullets(items)]
        return [Section(GALLERY, listed if worst else [])]
    spread = np.unique(np.linspace(0, len(sent) - 1, min(VIEWED, len(sent))).round().astype(int))
    chosen = [each.frame for each in worst]
    viewed = [sent[at] for at in spread if sent[at].frame not in chosen]
    problems: list[str] = []
    encoded = dict(encoded_frames(result, bag, chosen + [each.frame for each in viewed], problems))
    numbers = {each.frame: each.number for each in sent}
    dashes = '' if result.truth is None else ' Dashes: cones that are there.'
    note = f'The slowest, the most wrong, and those where cones vanished.{dashes}'
    if problems:
        note += f' The bag could not be read to its end: {" ".join(problems)}'
    gallery = []
    for frame, why, classes in worst:
        told = encoded.get(frame, 'it was not found in the bag')
        tags = [class_names(result)[class_id] for class_id in sorted(classes)]
        if isinstance(told, str):
            gallery.append(Picture('', f'{why}. No picture: {told}.', tags=tags))
        else:
            gallery.append(Picture(embed(told), why, tags=tags, frame=numbers[frame]))
    # As a film they take as long as the drive did.
    duration_s = max((each.at_s for each in viewed), default=0.0)
    rate_hz = round(min(30.0, max(1.0, len(viewed) / max(duration_s, 1.0))), 2)
    pictures = [
        Picture(embed(jpeg), describe(frame), frame=number)
        for number, _, frame in viewed
        if isinstance(jpeg := encoded.get(frame), bytes)
    ]
    said = f'Boxes: cones found, with class and score.{dashes} A click in a chart shows its frame.'
    return [
        Section('The drive, frame by frame', [Viewer(pictures, rate_hz)], said),
        Section(GALLERY, [Gallery(gallery)], note),
    ]


def _worst(result: ReplayResult) -> list[WorstFrame]:
    """The worst of every pass in turns, each picture once; why names its pass and frame too.

    After the WORST come more for each class that few of them are about.
    """
    names = class_names(result)
    by_pass = []
    for number, frames in enumerate(result.passes, 1):
        which = f'pass {number}, ' if len(result.passes) > 1 else ''
        worst = worst_frames(frames, result.truth, names, 60)
        told = [f'{which}{frame.camera} {frame.index}: {why}' for frame, why, _ in worst]
        by_pass.append([each._replace(why=why) for each, why in zip(worst, told, strict=True)])
    once: dict[Place, WorstFrame] = {}
    for each in filter(None, chain.from_iterable(zip_longest(*by_pass))):
        once.setdefault((each.frame.camera, each.frame.index), each)
    candidates = list(once.values())
    chosen = candidates[:WORST]
    for class_id in range(len(names)):
        few = WORST_OF_CLASS - sum(class_id in each.classes for each in chosen)
        more = [each for each in candidates if each not in chosen and class_id in each.classes]
        chosen += more[: max(few, 0)]
    return chosen


def encoded_frames(
    result: ReplayResult, bag: Path, frames: Sequence[FrameTrace], problems: list[str]
) -> Iterator[tuple[FrameTrace, bytes | str]]:
    """JPEG of each frame, or why there is none. What is wrong with the bag goes to `problems`."""
    try:
        for frame, drawn in draw_frames(result, bag, frames, 720, problems):
            yield frame, drawn if isinstance(drawn, str) else encode_picture('.jpg', drawn, 65)
    except SourceError as error:
        problems.append(str(error))
