"""Pictures, videos and bags -> frames, one after another, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import cv2
import numpy as np

from cone_perception.bags.reader import (
    choose_image_topic,
    header_stamp_ns,
    is_bag,
    open_bag,
    picture_message,
    read_messages,
)
from cone_perception.errors import ImageError, SourceError, told_as
from cone_perception.files import open_ordinary
from cone_perception.images import to_bgr
from cone_perception.types import Frame

PICTURE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEO_SUFFIXES = (
    *('.avi', '.m4v', '.mjpeg', '.mjpg', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts'),
    *('.ogv', '.ts', '.webm', '.wmv'),
)
"""Only these: FFmpeg finds a video in any file that has JPEGs inside."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A picture that could not be had from its source.

    source: which one. reason: why, for the person who has to look after it.
    """

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A source of pictures.

    kind: `pictures` have names of their own; a `video` or a `bag` is one sequence in time.
    count: pictures in it; None where that is not known beforehand.
    rate_hz: pictures per second of a video or bag; 0 where there is no time.
    frames: each picture once, in order; SourceError when the rest cannot be read.
    """

    kind: Literal['pictures', 'video', 'bag']
    count: int | None
    rate_hz: float
    frames: Iterator[Frame | Unreadable]


def open_source(path: Path, topic: str | None = None) -> Source:
    """The pictures at `path`: a picture, a folder of them, a video, or a rosbag2.

    topic: of a bag; None takes its only image topic. Raises SourceError.
    """
    if not path.exists():
        raise SourceError(f'{path} does not exist.')
    if not path.is_dir():
        with told_as(SourceError, 'the source cannot be read'), open_ordinary(path):
            pass  # of a pipe or a device FFmpeg would wait for ever
    if is_bag(path):
        with open_bag(path) as reader:
            topic = choose_image_topic(reader, topic)
            count = sum(c.msgcount for c in reader.connections if c.topic == topic)
            duration_s = reader.duration / 1e9
        rate_hz = (count - 1) / duration_s if count > 1 and duration_s > 0 else 0.0
        return Source('bag', count, rate_hz, read_bag_frames(path, topic))
    if topic is not None:
        raise SourceError(f'{path} is not a rosbag2, so it has no topic {topic}: leave it out.')
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return Source('pictures', 1, 0.0, _read_pictures([path]))
    return _open_video(path)


def _open_folder(path: Path) -> Source:
    # Hidden ones are no pictures: a Mac writes ._NAME.jpg beside each NAME.jpg (AppleDouble).
    pictures = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith('.')
    )
    if not pictures:
        raise SourceError(
            f'{path} holds no pictures ({" ".join(PICTURE_SUFFIXES)}) and no metadata.yaml of a '
            'rosbag2. Folders inside it are not searched: give the one with the pictures.'
        )
    return Source('pictures', len(pictures), 0.0, _read_pictures(pictures))


def _read_pictures(files: list[Path]) -> Iterator[Frame | Unreadable]:
    for file in files:
        try:
            with open_ordinary(file) as stream:
                compressed_image = SimpleNamespace(data=stream.read(), format=file.suffix)
            yield Frame(to_bgr(compressed_image, upright=True), source=file.name)
        except (OSError, ImageError) as error:
            yield Unreadable(file.name, str(error))


def _open_video(path: Path) -> Source:
    video = cv2.VideoCapture(str(path) if path.suffix.lower() in VIDEO_SUFFIXES else '')
    if not video.isOpened():
        raise SourceError(
            f'{path} can be read neither as a picture ({" ".join(PICTURE_SUFFIXES)}), nor as a '
            f'rosbag2 (.mcap, .db3, folder), nor as a video ({" ".join(VIDEO_SUFFIXES)}). It is '
            'damaged, its codec is unknown, or its name has another ending.'
        )
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    rate_hz = float(video.get(cv2.CAP_PROP_FPS))
    known = count if count > 0 else None
    return Source('video', known, max(rate_hz, 0.0), _read_video(video, path.name, known))


def _read_video(
    video: cv2.VideoCapture, name: str, count: int | None
) -> Iterator[Frame | Unreadable]:
    read = 0
    try:
        while True:
            found, bgr = video.read()
            if not found:
                break
            stamp_ns = round(video.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            yield Frame(np.asarray(bgr, np.uint8), max(stamp_ns, 0), source=name)
            read += 1
    finally:
        video.release()
    # A container's count may be off by 2 % without the video being cut off.
    if count is not None and count - read > max(2, 0.02 * count):
        yield Unreadable(
            f'{name} from frame {read}',
            f'it says that it has {count} frames, but ends after {read}: it is damaged or cut off',
        )


def read_bag_frames(path: Path, topic: str) -> Iterator[Frame | Unreadable]:
    """Each picture of the bag's image topic, stamped by its header. Raises SourceError."""
    with open_bag(path) as reader:
        for index, recorded in enumerate(read_messages(reader, [topic])):
            try:
                message, stamp_ns = picture_message(recorded), header_stamp_ns(recorded.data)
                yield Frame(to_bgr(message), stamp_ns, message.header.frame_id, topic)
            except ImageError as error:
                yield Unreadable(f'{topic} message {index}', str(error))
