"""A bag -> its topics, and what is wrong with it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

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
    read_messages,
)
from cone_perception.errors import ImageError, SourceError
from cone_perception.images import camera_info_topic, to_bgr

GAP_PERIODS = 3.0
"""A pause longer than this many periods is a gap: one lost picture makes two."""
TYPES_BY_NAME = {
    **dict.fromkeys(('image', 'image_raw', 'image_color', 'image_rect', 'image_rect_color'), IMAGE),
    'compressed': COMPRESSED_IMAGE,
    'camera_info': CAMERA_INFO,
}
"""Last part of a topic's name -> the type that image_transport publishes there."""


@dataclass(frozen=True, slots=True)
class BagProblem:
    """Something wrong with a topic, or None, the whole bag. kind: a word for programs."""

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
    """One topic; None where too few messages, or no headers, tell.

    size_bytes: of its messages, uncompressed. rate_hz, first_ns, last_ns: by the times at which
    they were recorded. first_stamp_ns, last_stamp_ns: of the headers.
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
    """A whole bag. storage: mcap or sqlite3. compression: mode and format, or none.

    size_bytes: on the disk. complete: all of it could be read; else topics hold what was read.
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
    """A topic while the bag is read; times_ns, stamps_ns: one per message.

    promised: messages that the bag says it has. problems: of all topics. headless: messages too
    short for their header. camera_info: the first message of such a topic.
    """

    topic: str
    type_name: str
    promised: int
    problems: list[BagProblem]
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

    def note(self, kind: str, text: str) -> None:
        """Take down a problem of this topic."""
        self.problems.append(BagProblem(self.topic, kind, text))

    def take(self, message: BagMessage) -> None:
        """Count a message, and look into the first one."""
        self.times_ns.append(message.time_ns)
        self.size_bytes += len(message.data)
        if len(self.times_ns) == 1 and self.type_name in bag_types().fielddefs:
            self._take_first(message)
        if self.has_header:
            try:
                self.stamps_ns.append(header_stamp_ns(message.data))
            except SourceError:
                self.headless += 1

    def _take_first(self, message: BagMessage) -> None:
        try:
            first = bag_types().deserialize_cdr(message.data, self.type_name)
        except Exception as error:  # of another type: raises whatever its parser tripped over
            text = f'the first message is no {self.type_name}: {error!r}'
            if message.data.startswith(b'\x28\xb5\x2f\xfd'):  # zstd
                text = 'its messages are compressed (zstd); no metadata.yaml says so: restore it'
            self.note('type', text)
            return
        if self.type_name == IMAGE:
            self.picture = FirstPicture(first.width, first.height, first.encoding)
            if not 0 < first.step * first.height <= len(first.data):
                rows = f'{first.height} rows of {first.step}'
                self.note('picture', f'the first: {len(first.data)} bytes for {rows}')
        elif self.type_name == COMPRESSED_IMAGE:
            try:
                height_px, width_px = to_bgr(first).shape[:2]
                self.picture = FirstPicture(width_px, height_px, first.format)
            except ImageError as error:
                self.note('picture', f'the first one: {error}')
        elif self.type_name == CAMERA_INFO:
            self.camera_info = first

    def report(self) -> TopicReport:
        """Sum up."""
        count, (first_ns, last_ns) = len(self.times_ns), _ends(self.times_ns)
        span_s = (last_ns - first_ns) / 1e9 if count else 0.0
        rate_hz = (count - 1) / span_s if span_s > 0 else None
        ends = (first_ns, last_ns, *_ends(self.stamps_ns))
        size_bytes, picture = self.size_bytes, self.picture
        return TopicReport(self.topic, self.type_name, count, size_bytes, rate_hz, *ends, picture)


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
        counts: Counter[tuple[str, str]] = Counter()
        for connection in reader.connections:
            counts[connection.topic, connection.msgtype] += connection.msgcount
        there = {key: _Track(*key, count, problems) for key, count in counts.items()}
        tracks = [track for track in there.values() if topics is None or track.topic in topics]
        for message in read_messages(reader, {track.topic for track in tracks}, problems=damage):
            there[message.topic, message.type_name].take(message)
            if see is not None:
                see(message)
        storage = storage_of(reader)
    problems += [BagProblem(None, 'damaged', text) for text in damage]
    _note_types(list(there.values()))
    for track in tracks:
        _note_counts_and_stamps(track, complete=not damage)
        _note_gaps(track)
    _note_stopped(tracks)
    _note_contradictions(tracks)
    times_ns = sorted(time_ns for track in tracks for time_ns in track.times_ns)
    first_ns, last_ns = _ends(times_ns)
    return BagReport(
        str(path),
        *storage,
        sum(file.stat().st_size for file in (path, *path.rglob('*')) if file.is_file()),
        not damage,
        len(times_ns),
        (last_ns - first_ns) / 1e9 if times_ns else 0.0,
        first_ns,
        last_ns,
        tuple(track.report() for track in sorted(tracks, key=lambda track: track.topic)),
        tuple(problems),
    )


def storage_of(reader: BagReader) -> tuple[str, str]:
    """Tell a bag's storage and its compression, as a BagReport does, by the first file."""
    file = data_files(Path(str(reader.path)))[0]
    storage = 'sqlite3' if '.db3' in file.name.lower() or is_sqlite(file) else 'mcap'
    mode, kind = reader.compression_mode, reader.compression_format
    if not mode and storage == 'mcap':
        mode, kind = 'storage', chunk_compression(file)
    return storage, f'{mode} {kind}' if mode and kind else 'none'


def _ends(times_ns: Sequence[int]) -> tuple[Any, Any]:
    """The first and the last one, or None twice."""
    return (times_ns[0], times_ns[-1]) if times_ns else (None, None)


def _note_types(tracks: list[_Track]) -> None:
    for track in tracks:
        names = sorted(other.type_name for other in tracks if other.topic == track.topic)
        if names[1:] and names[0] == track.type_name:
            track.note('type', f'has several types: {", ".join(names)}')
    for track in tracks:
        usual = TYPES_BY_NAME.get(track.topic.rpartition('/')[2])
        if usual not in (None, track.type_name):
            track.note('type', f'is of type {track.type_name}; its name is that of a {usual}')


def _note_counts_and_stamps(track: _Track, complete: bool) -> None:
    """Note messages that are missing or too short, and stamps that are zero, equal, or go back."""
    count, all_stamps = len(track.times_ns), len(track.stamps_ns)
    stamps = [stamp for stamp in track.stamps_ns if stamp]
    backward = [before - after for before, after in pairwise(stamps) if after < before]
    zero, equal = all_stamps - len(stamps), len(stamps) - len(set(stamps))
    if complete and track.promised != count:
        track.note(
            'count',
            f'{track.promised} messages are announced, but {count} are there: the '
            'metadata is of another file, or the file was cut off',
        )
    if track.headless:
        text = f'{track.headless} messages are too short for the header of a {track.type_name}'
        track.note('type', text)
    if zero:
        text = f'{zero} of {all_stamps} stamps are zero: the driver does not set them'
        track.note('zero stamp', text)
    if backward:
        track.note(
            'unsorted',
            f'{len(backward)} of {len(stamps)} stamps are earlier than the one before, '
            f'by up to {max(backward) / 1e9:.3f} s',
        )
    if equal and track.type_name in PICTURES:
        text = f'{equal} of {len(stamps)} stamps are those of another picture'
        track.note('equal stamp', text)
    if at_zero := track.times_ns.count(0):
        track.note('zero time', f'{at_zero} messages were recorded at time zero')


def _note_gaps(track: _Track) -> None:
    """Note pauses of a sensor, by the times of recording. Events have no rate to miss."""
    period_ns = track.period_ns if track.has_header else None
    limit_ns = GAP_PERIODS * (period_ns or math.inf)
    gaps = [(b - a, a) for a, b in pairwise(track.times_ns) if b - a > limit_ns]
    if period_ns and gaps:
        longest_ns, at_ns = max(gaps)
        track.note(
            'gap',
            f'{len(gaps)} gaps of more than {GAP_PERIODS:g} periods of {period_ns / 1e6:.1f} ms; '
            f'the longest, {longest_ns / 1e9:.3f} s, begins '
            f'{(at_ns - track.times_ns[0]) / 1e9:.3f} s after its first message',
        )


def _note_stopped(tracks: list[_Track]) -> None:
    """Note cameras that end before another one does."""
    cameras = [track for track in tracks if track.type_name in PICTURES]
    last_ns = max((track.times_ns[-1] for track in cameras if track.times_ns), default=0)
    slowest_ns = max((track.period_ns or 0.0 for track in cameras), default=0.0)
    for track in cameras:
        if not track.times_ns:
            track.note('empty', 'has no pictures')
            continue
        early_ns = last_ns - track.times_ns[-1]
        if early_ns > GAP_PERIODS * (track.period_ns or slowest_ns):
            track.note('stopped', f'stops {early_ns / 1e9:.3f} s before another camera')


def _note_contradictions(tracks: list[_Track]) -> None:
    """Note cameras whose camera_info is of pictures of another size."""
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
            track.note(
                'camera_info',
                f'the pictures have {found[0]}x{found[1]} pixels, but '
                f'{camera_info_topic(track.topic)} is for {said[0]}x{said[1]}',
            )
