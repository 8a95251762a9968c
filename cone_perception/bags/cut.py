"""A bag -> a part of it, every message byte for byte as it was."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

from rosbags.interfaces import MessageDefinitionFormat, QosDurability
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from tqdm import tqdm

from cone_perception.bags.reader import (
    CAMERA_INFO,
    BagMessage,
    BagReader,
    bag_types,
    camera_info_topic,
    open_bag,
    read_messages,
)
from cone_perception.bags.report import storage_of
from cone_perception.errors import SourceError, told_as

TF = 'tf2_msgs/msg/TFMessage'


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
    static = connection.topic.endswith('/tf_static') and connection.msgtype == TF
    latched = QosDurability.TRANSIENT_LOCAL in durabilities
    return latched or static or connection.msgtype == CAMERA_INFO


def _definition(reader: BagReader, connection: Any) -> tuple[str, str]:
    """Text and RIHS01 hash of a topic's type: the bag's own, or ROS's where it has none."""
    name, definition = connection.msgtype, connection.msgdef
    parse = {
        MessageDefinitionFormat.MSG: lambda: get_types_from_msg(definition.data, name),
        MessageDefinitionFormat.IDL: lambda: get_types_from_idl(definition.data),
    }.get(definition.format)
    if parse is None:
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
        store.register(parse())
        return definition.data, store.hash_rihs01(name)
