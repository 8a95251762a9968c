"""`cone-perception bag info|cut|from-images|from-video`."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any, cast

from rosbags.interfaces import MessageDefinitionFormat, QosDurability
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from tqdm import tqdm

from cone_perception.arguments import above_zero, text_table, zero_or_more
from cone_perception.bags.reader import (
    CAMERA_INFO,
    BagMessage,
    BagReader,
    bag_types,
    load_camera_info,
    open_bag,
    read_messages,
    write_image_bag,
)
from cone_perception.bags.report import BagReport, TopicReport, inspect_bag, storage_of
from cone_perception.errors import OutputError, SourceError, told_as
from cone_perception.files import to_json, whole_folder
from cone_perception.images import camera_info_topic
from cone_perception.pictures.sources import Source, Unreadable, open_source
from cone_perception.types import Frame

FIRST_STAMP_NS = 1_760_000_000 * 10**9
"""The first stamp of every bag made: a plausible time. Zero would mean unset."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    info = actions.add_parser('info', help='what is in a bag, and what is wrong with it')
    info.add_argument('bag', type=Path, help='folder of a rosbag2, or its .mcap or .db3 file')
    info.add_argument('--json', action='store_true', help='for programs')
    info.set_defaults(act=_info)

    cut = actions.add_parser('cut', help='a part of a bag, byte for byte')
    cut.add_argument('bag', type=Path, help='folder of a rosbag2, or its .mcap or .db3 file')
    cut.add_argument(
        '--start', type=zero_or_more, default=0.0, help='seconds after the first message (0)'
    )
    cut.add_argument('--duration', type=above_zero, help='seconds (to the end)')
    cut.add_argument(
        '--topic', action='append', default=[], help='only this one; may be repeated (all)'
    )
    cut.add_argument('--out', type=Path, required=True, help='folder of the new bag')
    cut.set_defaults(act=_cut)

    for name, what in (('from-images', 'folder of pictures'), ('from-video', 'video')):
        make = actions.add_parser(name, help=f'a bag of a {what}')
        make.add_argument('source', type=Path, help=what)
        make.add_argument('--out', type=Path, required=True, help='folder of the new bag')
        make.add_argument(
            '--topic',
            type=_topic,
            help='(/camera/image, or /camera/image/compressed with --compressed)',
        )
        images = name == 'from-images'
        make.add_argument(
            '--hz',
            type=above_zero,
            default=15.0 if images else None,
            help=f'pictures per second ({"15" if images else "the times of the video"})',
        )
        make.add_argument('--frame-id', default='camera', help='of the headers (camera)')
        make.add_argument('--compressed', action='store_true', help='JPEG in CompressedImage')
        make.add_argument('--camera-info', type=Path, help='calibration (YAML) to publish beside')
        make.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap', help='(mcap)')
        make.set_defaults(act=_make, kind='pictures' if images else 'video')


def run(args: argparse.Namespace) -> int:
    return int(args.act(args))


def _info(args: argparse.Namespace) -> int:
    try:
        report = inspect_bag(args.bag)
    except SourceError as error:
        if not args.json:
            raise
        print(to_json({'path': args.bag, 'complete': False, 'error': str(error)}, indent=2))
        return 1
    print(to_json(report, indent=2) if args.json else report_text(report))
    return 0 if report.complete else 1


def _cut(args: argparse.Namespace) -> int:
    with _new_bag(args.out) as out:
        count, before = cut_bag(args.bag, out, args.start, args.duration, args.topic)
    held = f', {before} of them latched before the cut' if before else ''
    print(f'{args.out}: {count} messages{held}')
    return 0


def _make(args: argparse.Namespace) -> int:
    topic = args.topic or f'/camera/image{"/compressed" if args.compressed else ""}'
    source = open_source(args.source)
    if source.kind != args.kind:
        right = {'pictures': 'from-images takes it', 'video': 'from-video takes it'}
        hint = right.get(source.kind, 'it is a bag already')
        raise SourceError(f'{args.source} is no {args.kind}: {hint}.')
    info = load_camera_info(args.camera_info) if args.camera_info else None
    failures: list[Unreadable] = []
    with _new_bag(args.out) as out:
        stamped = _stamped(source, args.hz, args.frame_id, failures.append)
        frames = tqdm(stamped, 'writing', source.count, unit='picture', disable=None)
        count = write_image_bag(out, frames, topic, args.compressed, args.storage, info)
        if not count:
            raise SourceError(f'{args.source} has no picture that can be read.')
    print(f'{args.out}: {count} pictures on {topic}')
    for failure in failures:
        print(f'left out: {failure.source}: {failure.reason}', file=sys.stderr)
    return 1 if failures else 0


def _stamped(
    source: Source, hz: float | None, frame_id: str, note_failure: Callable[[Unreadable], None]
) -> Iterator[Frame]:
    """Yield each readable picture with its stamp.

    An unreadable one keeps its place in time and goes to `note_failure`.
    hz: pictures per second; None keeps a video's own times. Raises SourceError where it has none.
    """
    previous_ns = -1
    for index, frame in enumerate(source.frames):
        if isinstance(frame, Unreadable):
            note_failure(frame)
            continue
        stamp_ns = frame.stamp_ns if hz is None else round(index * 1e9 / hz)
        if stamp_ns <= previous_ns:
            raise SourceError(
                f'{frame.source}: frame {index} is at {stamp_ns / 1e9:.3f} s, not after the one '
                f'before at {previous_ns / 1e9:.3f} s. Say how many there are per second: --hz.'
            )
        previous_ns = stamp_ns
        yield replace(frame, stamp_ns=FIRST_STAMP_NS + stamp_ns, frame_id=frame_id)


@contextlib.contextmanager
def _new_bag(out: Path) -> Iterator[Path]:
    """Yield the place to write a bag at, which becomes `out` once it is whole.

    Raises OutputError: when `out` exists or cannot be written.
    """
    if out.exists():
        raise OutputError(f'{out} exists already: give another --out, or remove it.')
    with told_as(OutputError, f'{out} cannot be written'), whole_folder(out) as place:
        yield place


def cut_bag(
    path: Path, out: Path, start_s: float, duration_s: float | None, topics: Sequence[str] = ()
) -> tuple[int, int]:
    """Write the messages of a time span into a new bag `out`, in the source's storage.

    start_s: after the first message. duration_s: None goes to the end. topics: none means all;
    the camera_info beside one and tf_static come along. Returns the number of messages, and of
    latched ones among them from before the span (see `_kept_from_before`): these are
    recorded at its beginning, all others when they were. Raises SourceError.
    """
    with open_bag(path) as reader:
        if not reader.message_count:
            raise SourceError(f'{path} has no messages: there is nothing to cut.')
        wanted = _choose_topics(reader, topics)
        first_ns = reader.start_time
        start_ns = first_ns + round(start_s * 1e9)
        stop_ns = reader.end_time if duration_s is None else start_ns + round(duration_s * 1e9)
        before = _kept_from_before(reader, wanted, start_ns, stop_ns)
        messages = chain(before, read_messages(reader, wanted, start_ns, stop_ns))
        count = 0
        storage, compression = storage_of(reader)
        writer = Writer(out, version=9, storage_plugin=StoragePlugin[storage.upper()])
        mode = CompressionMode[compression.split()[0].upper()]
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            connections: dict[tuple[str, str], Any] = {}
            for each in cast('list[Any]', reader.connections):
                key, qos = (each.topic, each.msgtype), each.ext.offered_qos_profiles
                if each.topic in wanted and key not in connections:
                    text, digest = _definition(reader, each)
                    connections[key] = writer.add_connection(
                        *key, msgdef=text, rihs01=digest, offered_qos_profiles=qos
                    )
            for message in tqdm(messages, 'cutting', unit='message', disable=None):
                connection = connections[message.topic, message.type_name]
                writer.write(connection, max(message.time_ns, start_ns), message.data)
                count += 1
        if count == len(before):
            length_s = (reader.end_time - first_ns) / 1e9
            raise SourceError(
                f'{path} has no messages of {", ".join(sorted(wanted))} in that time; '
                f'the whole bag is {length_s:.1f} s long.'
            )
    return count, len(before)


def _choose_topics(reader: BagReader, topics: Sequence[str]) -> set[str]:
    there = {connection.topic for connection in reader.connections}
    missing = sorted(set(topics) - there)
    if missing:
        raise SourceError(
            f'{reader.path} has no topic {", ".join(missing)}; it has {", ".join(sorted(there))}.'
        )
    if not topics:
        return there
    beside = {camera_info_topic(topic) for topic in topics}
    static = {topic for topic in there if topic.endswith('/tf_static')}
    return set(topics) | (beside & there) | static


def _kept_from_before(
    reader: BagReader, wanted: set[str], start_ns: int, stop_ns: int
) -> list[BagMessage]:
    """Find latched messages from before the cut: without them it could not be used.

    All of tf_static, for each message holds other frames; of other latched topics (durability
    transient local) the last message before the span; of a camera_info the same, unless the
    span has some.
    """
    holding = {c.topic for c in reader.connections if c.topic in wanted and _holds(c)}
    infos = {c.topic for c in reader.connections if c.msgtype == CAMERA_INFO} & holding
    holding -= {m.topic for m in read_messages(reader, infos, start_ns, stop_ns)}
    kept: list[BagMessage] = []
    last: dict[str, BagMessage] = {}
    for message in read_messages(reader, holding, None, start_ns):
        if message.topic.endswith('/tf_static'):
            kept.append(message)
        else:
            last[message.topic] = message
    return kept + list(last.values())


def _holds(connection: Any) -> bool:
    durabilities = {qos.durability for qos in connection.ext.offered_qos_profiles}
    name, latched = connection.msgtype, QosDurability.TRANSIENT_LOCAL in durabilities
    static = connection.topic.endswith('/tf_static') and name == 'tf2_msgs/msg/TFMessage'
    return latched or static or name == CAMERA_INFO


def _definition(reader: BagReader, connection: Any) -> tuple[str, str]:
    """Text and RIHS01 hash of a topic's type: the bag's own, or ROS's where it has none."""
    name, definition = connection.msgtype, connection.msgdef
    if definition.format == MessageDefinitionFormat.NONE:
        if name not in bag_types().fielddefs:
            raise SourceError(
                f'{reader.path} does not define {name} of {connection.topic}, and it is none of '
                "ROS's own: name the other topics with --topic."
            )
        return bag_types().generate_msgdef(name, ros_version=2)[0], bag_types().hash_rihs01(name)
    if connection.digest:
        return definition.data, connection.digest
    # A damaged definition raises whatever its parser tripped over.
    with told_as(SourceError, f'{reader.path}: the definition of {name} cannot be read', Exception):
        store = get_typestore(Stores.EMPTY)
        if definition.format == MessageDefinitionFormat.MSG:
            store.register(get_types_from_msg(definition.data, name))
        else:
            store.register(get_types_from_idl(definition.data))
        return definition.data, store.hash_rihs01(name)


def report_text(report: BagReport) -> str:
    """For the terminal: a head, a table of topics, and what is wrong."""
    lines = [
        f'{report.path}: {report.storage}, compression {report.compression}, '
        f'{_size(report.size_bytes)}',
        f'{report.count} messages in {report.duration_s:.3f} s, '
        f'{_time(report.first_ns)} to {_time(report.last_ns)}',
        '',
    ]
    head = ('topic', 'type', 'messages', 'rate', 'first stamp', 'last stamp', 'size', 'picture')
    rows = [head, *(_row(topic) for topic in report.topics)]
    lines += [*text_table(rows, words=range(len(head))), '']
    lines += [f'wrong: {problem}' for problem in report.problems]
    return '\n'.join(lines if report.problems else [*lines, 'nothing wrong was found'])


def _row(topic: TopicReport) -> tuple[str, ...]:
    picture = topic.picture
    return (
        topic.topic,
        topic.type_name,
        str(topic.count),
        '-' if topic.rate_hz is None else f'{topic.rate_hz:.2f} Hz',
        _stamp(topic.first_stamp_ns),
        _stamp(topic.last_stamp_ns),
        _size(topic.size_bytes),
        f'{picture.width_px}x{picture.height_px} {picture.encoding}' if picture else '-',
    )


def _size(size_bytes: int) -> str:
    return f'{size_bytes / 1e6:.2f} MB' if size_bytes >= 10_000 else f'{size_bytes} B'


def _stamp(stamp_ns: int | None) -> str:
    return '-' if stamp_ns is None else f'{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}'


def _time(time_ns: int | None) -> str:
    if time_ns is None:
        return '-'
    at = datetime.fromtimestamp(time_ns // 10**9, timezone.utc)
    return f'{at:%Y-%m-%d %H:%M:%S}.{time_ns % 10**9 // 10**6:03d} UTC'


def _topic(text: str) -> str:
    if not re.fullmatch(r'(/[A-Za-z_][A-Za-z0-9_]*)+', text):
        raise argparse.ArgumentTypeError(f'{text} is no topic: /camera/image would be one')
    return text
