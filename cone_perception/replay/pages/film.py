"""The film of a replay: each picture with its cones, its latency, or what became of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from cone_perception.errors import SourceError
from cone_perception.pictures.draw import Film, draw_caption
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.pictures import (
    describe,
    draw_border,
    draw_frames,
    tile,
    topics_of,
)
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import UInt8

FULL_WIDTH_PX = 1280
SHARED_WIDTH_PX = 960
"""At most: of the only camera's picture, of each picture beside others."""

DEFAULT_RATE_HZ = 15.0


def write_film(path: Path, result: ReplayResult, bag: Path, number: int = 0) -> None:
    """Write the film of one pass; `number` counts from 0.

    Several cameras are side by side, two in a row or more, each as large as the film's first
    picture; one that has no new picture is dark.
    A frame that was lost has a red border. Frames that were not sent any more are not shown.
    Of a bag that is damaged further on it shows what comes before that, as the replay did.
    Raises SourceError when the bag cannot be opened or none of its pictures was sent, OutputError
    when the film cannot be written.
    """
    frames = result.passes[number] if number < len(result.passes) else ()
    names = [name for name in topics_of(result) if any(frame.camera == name for frame in frames)]
    if not names:
        raise SourceError(f'pass {number + 1} has no frame of which a film could be made.')
    film = Film(path, _rate_hz(frames))
    width_px = FULL_WIDTH_PX if len(names) == 1 else SHARED_WIDTH_PX
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
        if isinstance(picture, str):
            picture = _unreadable(sizes.get(frame.camera, (360, 640)), frame, picture)
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


def _unreadable(size: tuple[int, ...], frame: FrameTrace, reason: str) -> UInt8:
    """A dark picture that says why it is one."""
    picture = np.full((*size, 3), 24, np.uint8)
    draw_border(picture)
    draw_caption(picture, f'{describe(frame)}: {reason}')
    return picture


def _rate_hz(frames: Sequence[FrameTrace]) -> float:
    """The usual rate of the fastest camera by its stamps: the film runs as the drive did."""
    rates = []
    for camera in {frame.camera for frame in frames}:
        stamps = sorted(frame.stamp_ns for frame in frames if frame.camera == camera)
        gaps = [after - before for before, after in pairwise(stamps) if after > before]
        if gaps:
            rates.append(1e9 / median(gaps))
    return max(rates, default=DEFAULT_RATE_HZ)
