"""A bag -> its topics, and what is wrong with it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from cone_perception.bags.camera_info import camera_info_topic
from cone_perception.bags.cut_off import chunk_compression, is_sqlite
from cone_perception.bags.reader import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    PICTURES,
    BagMessage,
    BagReader,
    bag_types,
    data_files,
    file_without_metadata,
    header_stamp_ns,
    open_bag,
    read_until_damage,
)
from cone_perception.errors import ImageError, SourceError
from cone_perception.images import to_bgr

GAP_PERIODS = 3.0
"""A pause longer than this many periods is a gap: one lost picture makes two."""
ZSTD = b'\x28\xb5\x2f\xfd'
TYPES_BY_NAME = {
    **dict.fromkeys(('image', 'image_raw', 'image_color', 'image_rect', 'image_rect_color'), IMAGE),
    'compressed': COMPRESSED_IMAGE,
    'camera_info': CAMERA_INFO,
}
"""Last part of a topic's name -> the type that image_transport publishes there."""


@dataclass(frozen=True, slots=True)
class BagProblem:
    """Something wrong with a bag.

    topic: None where it concerns all of it. kind: a word for programs. text: for the reader.
    """

    topic: str | None
    kind: str
    text: str

    def __str__(self) -> str:
        return f'{self.topic}: {self.text}' if self.topic else self.text


@dataclass(frozen=True, slots=True)
class FirstPicture:
    """The first picture of a topic. encoding: of Image, or format of CompressedImage."""

    width_px: int
    height_px: int
    encoding: str


@dataclass(frozen=True, slots=True)
class TopicReport:
    """One topic.

    size_bytes: of its messages, uncompressed. rate_hz: by the times at which they were recorded,
    None below two messages. first_ns, last_ns: recorded; first_stamp_ns, last_stamp_ns: of the
    headers; None without messages, or without a header.
    """

    topic: str
    type_name: str
    count: int
    size_bytes: int
    rate_hz: float | None
    first_ns: int | None
    last_ns: int | None
    first_stamp_ns: int | None
    last_stamp_ns: int | None
    picture: FirstPicture | None


@dataclass(frozen=True, slots=True)
class BagReport:
    """A whole bag.

    storage: mcap or sqlite3. compression: its mode and format, or none. size_bytes: on the disk.
    complete: all of it could be read; else the topics hold what was read until then.
    """

    path: str
    storage: str
    compression: str
    size_bytes: int
    complete: bool
    count: int
    duration_s: float
    first_ns: int | None
    last_ns: int | None
    topics: tuple[TopicReport, ...]
    problems: tuple[BagProblem, ...]


@dataclass(slots=True)
class _Track:
    """A topic while the bag is read.

    promised: messages that the bag says it has. times_ns, stamps_ns: one per message. headless:
    messages too short for their header. camera_info: the first message of such a topic.
    """

    topic: str
    type_name: str
    promised: int
    size_bytes: int = 0
    times_ns: array[int] = field(default_factory=lambda: array('q'))
    stamps_ns: array[int] = field(default_factory=lambda: array('q'))
    headless: int = 0
    camera_info: Any = None
    picture: FirstPicture | None = None
    has_header: bool = False

    def __post_init__(self) -> None:
        fields = bag_types().fielddefs.get(self.type_name, ((), ()))[1]
        first = fields[0] if fields else ('', '')
        self.has_header = first[0] == 'header' and 'std_msgs/msg/Header' in str(first[1])

    @property
    def period_ns(self) -> float | None:
        """The median of the gaps between messages; None below three, where it says nothing."""
        gaps = [after - before for before, after in pairwise(self.times_ns)]
        return median(gaps) if len(gaps) >= 2 else None

    def problem(self, kind: str, text: str) -> BagProblem:
        """Make a problem of this topic."""
        return BagProblem(self.topic, kind, text)

    def report(self) -> TopicReport:
        """Sum up."""
        times, stamps = self.times_ns, self.stamps_ns
        span_s = (times[-1] - times[0]) / 1e9 if times else 0.0
        return TopicReport(
            self.topic,
            self.type_name,
            len(times),
            self.size_bytes,
            (len(times) - 1) / span_s if span_s > 0 else None,
            times[0] if times else None,
            times[-1] if times else None,
            stamps[0] if stamps else None,
            stamps[-1] if stamps else None,
            self.picture,
        )


def inspect_bag(
    path: Path,
    topics: Collection[str] | None = None,
    see: Callable[[BagMessage], None] | None = None,
) -> BagReport:
    """Read all of the bag at `path`, once. Raises SourceError when it cannot be opened.

    topics: only their messages are read and judged; None takes all. see: is called with each.
    """
    problems: list[BagProblem] = []
    if file := file_without_metadata(path):
        text = f'metadata.yaml is missing; {file.name} was read alone: `ros2 bag reindex` makes one'
        problems.append(BagProblem(None, 'metadata', text))
    damage: list[str] = []
    with open_bag(path) as reader:
        there = [_Track(*key, count) for key, count in _connections(reader).items()]
        tracks = [track for track in there if topics is None or track.topic in topics]
        by_key = {(track.topic, track.type_name): track for track in tracks}
        for message in read_until_damage(reader, {track.topic for track in tracks}, damage):
            problems += _take(message, by_key[message.topic, message.type_name])
            if see is not None:
                see(message)
        storage, compression = storage_of(reader), compression_of(reader)
    problems += [BagProblem(None, 'damaged', text) for text in damage]
    problems += _types(there)
    for track in tracks:
        problems += [*_counts_and_stamps(track, complete=not damage), *_gaps(track)]
    problems += [*_stopped(tracks), *_contradictions(tracks)]
    first_ns = min((min(t.times_ns) for t in tracks if t.times_ns), default=None)
    last_ns = max((max(t.times_ns) for t in tracks if t.times_ns), default=None)
    return BagReport(
        str(path),
        storage,
        compression,
        sum(file.stat().st_size for file in (path, *path.rglob('*')) if file.is_file()),
        not damage,
        sum(len(track.times_ns) for track in tracks),
        0.0 if first_ns is None or last_ns is None else (last_ns - first_ns) / 1e9,
        first_ns,
        last_ns,
        tuple(track.report() for track in sorted(tracks, key=lambda track: track.topic)),
        tuple(problems),
    )


def storage_of(reader: BagReader) -> str:
    """Tell mcap or sqlite3, by the bag's first file."""
    file = _first_file(reader)
    return 'sqlite3' if '.db3' in file.name.lower() or is_sqlite(file) else 'mcap'


def compression_of(reader: BagReader) -> str:
    """Tell `file`, `message` or `storage` (MCAP's chunks) and its format; or `none`."""
    if reader.compression_mode:
        return f'{reader.compression_mode} {reader.compression_format}'
    compression = chunk_compression(_first_file(reader)) if storage_of(reader) == 'mcap' else ''
    return f'storage {compression}' if compression else 'none'


def _first_file(reader: BagReader) -> Path:
    return data_files(Path(str(reader.path)))[0]


def _connections(reader: BagReader) -> Counter[tuple[str, str]]:
    """Map topic and type to the number of messages that the bag says it has."""
    counts: Counter[tuple[str, str]] = Counter()
    for connection in reader.connections:
        counts[connection.topic, connection.msgtype] += connection.msgcount
    return counts


def _take(message: BagMessage, track: _Track) -> Iterator[BagProblem]:
    track.times_ns.append(message.time_ns)
    track.size_bytes += len(message.data)
    if len(track.times_ns) == 1 and track.type_name in bag_types().fielddefs:
        yield from _take_first(message, track)
    if track.has_header:
        try:
            track.stamps_ns.append(header_stamp_ns(message.data))
        except SourceError:
            track.headless += 1


def _take_first(message: BagMessage, track: _Track) -> Iterator[BagProblem]:
    """Decode a topic's first message."""
    try:
        first = bag_types().deserialize_cdr(message.data, track.type_name)
    except Exception as error:  # a message of another type raises whatever its parser tripped over
        text = f'the first message is no {track.type_name}: {error!r}'
        if message.data.startswith(ZSTD):
            text = 'its messages are compressed (zstd), but no metadata.yaml says so: restore it'
        yield track.problem('type', text)
        return
    if track.type_name == IMAGE:
        track.picture = FirstPicture(first.width, first.height, first.encoding)
        if not 0 < first.step * first.height <= len(first.data):
            text = f'the first: {len(first.data)} bytes for {first.height} rows of {first.step}'
            yield track.problem('picture', text)
    elif track.type_name == COMPRESSED_IMAGE:
        try:
            height_px, width_px = to_bgr(first).shape[:2]
        except ImageError as error:
            yield track.problem('picture', f'the first one: {error}')
        else:
            track.picture = FirstPicture(width_px, height_px, first.format)
    elif track.type_name == CAMERA_INFO:
        track.camera_info = first


def _types(tracks: list[_Track]) -> Iterator[BagProblem]:
    types: dict[str, list[str]] = {}
    for track in tracks:
        types.setdefault(track.topic, []).append(track.type_name)
    for topic, names in types.items():
        if len(names) > 1:
            yield BagProblem(topic, 'type', f'has several types: {", ".join(sorted(names))}')
    for track in tracks:
        usual = TYPES_BY_NAME.get(track.topic.rpartition('/')[2])
        if usual not in (None, track.type_name):
            yield track.problem(
                'type', f'is of type {track.type_name}; a topic of this name carries {usual}'
            )


def _counts_and_stamps(track: _Track, complete: bool) -> Iterator[BagProblem]:
    """Find messages that are missing or too short, and stamps that are zero, equal, or go back."""
    count, all_stamps = len(track.times_ns), len(track.stamps_ns)
    stamps = [stamp for stamp in track.stamps_ns if stamp]
    backward = [before - after for before, after in pairwise(stamps) if after < before]
    zero, equal = all_stamps - len(stamps), len(stamps) - len(set(stamps))
    if complete and track.promised != count:
        yield track.problem(
            'count',
            f'{track.promised} messages are announced, but {count} are there: the '
            'metadata is of another file, or the file was cut off',
        )
    if track.headless:
        text = f'{track.headless} messages are too short for the header of a {track.type_name}'
        yield track.problem('type', text)
    if zero:
        text = f'{zero} of {all_stamps} stamps are zero: the driver does not set them'
        yield track.problem('zero stamp', text)
    if backward:
        yield track.problem(
            'unsorted',
            f'{len(backward)} of {len(stamps)} stamps are earlier than the one before, '
            f'by up to {max(backward) / 1e9:.3f} s',
        )
    if equal and track.type_name in PICTURES:
        text = f'{equal} of {len(stamps)} stamps are those of another picture'
        yield track.problem('equal stamp', text)
    if at_zero := track.times_ns.count(0):
        yield track.problem('zero time', f'{at_zero} messages were recorded at time zero')


def _gaps(track: _Track) -> Iterator[BagProblem]:
    """Find pauses of a sensor, by the times of recording. Events have no rate to miss."""
    period_ns = track.period_ns if track.has_header else None
    limit_ns = GAP_PERIODS * (period_ns or math.inf)
    gaps = [(b - a, a) for a, b in pairwise(track.times_ns) if b - a > limit_ns]
    if period_ns and gaps:
        longest_ns, at_ns = max(gaps)
        yield track.problem(
            'gap',
            f'{len(gaps)} gaps of more than {GAP_PERIODS:g} periods of {period_ns / 1e6:.1f} ms; '
            f'the longest, {longest_ns / 1e9:.3f} s, begins '
            f'{(at_ns - track.times_ns[0]) / 1e9:.3f} s after its first message',
        )


def _stopped(tracks: list[_Track]) -> Iterator[BagProblem]:
    """Find cameras that end before another one does."""
    cameras = [track for track in tracks if track.type_name in PICTURES]
    last_ns = max((track.times_ns[-1] for track in cameras if track.times_ns), default=0)
    slowest_ns = max((track.period_ns or 0.0 for track in cameras), default=0.0)
    for track in cameras:
        if not track.times_ns:
            yield track.problem('empty', 'has no pictures')
            continue
        early_ns = last_ns - track.times_ns[-1]
        if early_ns > GAP_PERIODS * (track.period_ns or slowest_ns):
            yield track.problem('stopped', f'stops {early_ns / 1e9:.3f} s before another camera')


def _contradictions(tracks: list[_Track]) -> Iterator[BagProblem]:
    """Find cameras whose camera_info is of pictures of another size."""
    infos = {t.topic: t.camera_info for t in tracks if t.camera_info is not None}
    for track in tracks:
        info = infos.get(camera_info_topic(track.topic))
        if track.picture is None or info is None:
            continue
        said = (
            (info.roi.width or info.width) // max(info.binning_x, 1),
            (info.roi.height or info.height) // max(info.binning_y, 1),
        )
        found = (track.picture.width_px, track.picture.height_px)
        if said != found:
            yield track.problem(
                'camera_info',
                f'the pictures have {found[0]}x{found[1]} pixels, but '
                f'{camera_info_topic(track.topic)} is for {said[0]}x{said[1]}',
            )
