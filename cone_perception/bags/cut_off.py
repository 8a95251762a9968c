"""A bag that was cut off -> the messages before the cut.

A recorder that is killed, or a copy that breaks off, leaves a file without the index at its end.
What comes before is whole: these readers find it and, after the last message, say where it ends.
"""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
    Qos,
)
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import ReaderMetadata, parse_qos
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import DECOMPRESSORS, Channel, ChunkInfo, McapReader, Schema
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

MCAP_MAGIC = b'\x89MCAP0\r\n'
# Record types of MCAP, https://mcap.dev/spec#records
HEADER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX = 0x01, 0x03, 0x04, 0x05, 0x06, 0x07
RECORD_HEAD = struct.Struct('<BQ')
CHUNK_HEAD = struct.Struct('<QQQI')
MESSAGE_HEAD = struct.Struct('<HIQQ')
FORMATS = {'ros2msg': MessageDefinitionFormat.MSG, 'ros2idl': MessageDefinitionFormat.IDL}


def open_remains(path: Path) -> Reader | None:
    """A reader of what is left of the bag at `path`; None when nothing is.

    Its `messages` raises ReaderError after the last one that is left.
    """
    try:
        reader = RemainsReader(path)
        reader.open()
    except Exception:  # a damaged bag raises whatever its parser tripped over
        return None
    if not any(connection.msgcount for s in reader.storages for connection in s.connections):
        reader.close()
        return None
    return reader


class McapRemains(McapReader):
    """An MCAP file, or the part of it that is whole: its index is made anew from the records."""

    cut: str = ''

    def open(self) -> None:
        try:
            super().open()
        except Exception:  # see open_remains
            with suppress(Exception):
                self.close()
            self._open_remains()

    def _open_remains(self) -> None:
        self.bio = bio = self.path.open('rb')
        if bio.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            raise ReaderError('File magic is invalid.')
        self.data_start = bio.tell()
        self.schemas, self.channels, self.chunks, self.connections = {}, {}, [], []
        counts: Counter[int] = Counter()
        first_ns, last_ns = 2**63 - 1, 0
        chunk: ChunkInfo | None = None
        for kind, start, length in _records(bio):
            if kind == MESSAGE_INDEX and chunk is not None:
                (channel,) = struct.unpack('<H', bio.read(2))
                (size,) = struct.unpack('<I', bio.read(4))
                chunk.channel_count[channel] = size // 16
            elif kind == CHUNK:
                self._close_chunk(chunk)
                chunk = _read_chunk_head(bio, start, length)
            elif kind in (SCHEMA, CHANNEL):
                self._take_definition(kind, bio.read(length))
            elif kind == MESSAGE:
                channel, _, time_ns, _ = MESSAGE_HEAD.unpack(bio.read(MESSAGE_HEAD.size))
                counts[channel] += 1
                first_ns, last_ns = min(first_ns, time_ns), max(last_ns, time_ns)
            self.data_end = start + RECORD_HEAD.size + length
        self._close_chunk(chunk)
        self.cut = f'{_name(self.path)} is cut off after {self.data_end} bytes'
        for kept in self.chunks:
            counts.update(kept.channel_count)
            first_ns = min(first_ns, kept.message_start_time)
            last_ns = max(last_ns, kept.message_end_time)
        self.connections = [c._replace(msgcount=counts[c.id]) for c in self.connections]
        self.metadata = _metadata(first_ns, last_ns, counts)

    def _close_chunk(self, chunk: ChunkInfo | None) -> None:
        """Keep a chunk once its index is read; look inside where that says too little."""
        if chunk is None:
            return
        known = set(self.channels)
        if not chunk.channel_count or not known.issuperset(chunk.channel_count):
            assert self.bio is not None
            back_to = self.bio.tell()
            counts: Counter[int] = Counter()
            inside = BytesIO(_read_chunk(self.bio, chunk))
            for kind, _, length in _records(inside):
                if kind in (SCHEMA, CHANNEL):
                    self._take_definition(kind, inside.read(length))
                elif kind == MESSAGE:
                    counts[struct.unpack('<H', inside.read(2))[0]] += 1
            chunk.channel_count.update(counts)
            self.bio.seek(back_to)
        self.chunks.append(chunk)

    def _take_definition(self, record_type: int, record: bytes) -> None:
        """A schema, or a channel, which becomes a connection."""
        at = BytesIO(record)
        (key,) = struct.unpack('<H', at.read(2))
        if record_type == SCHEMA:
            self.schemas[key] = Schema(key, *(_string(at).decode() for _ in range(3)))
            return
        if key in self.channels:
            return
        schema = self.schemas.get(struct.unpack('<H', at.read(2))[0])
        name = schema.name if schema else '__schemaless__'
        channel = Channel(key, name, _string(at).decode(), _string(at).decode(), _string(at))
        self.channels[key] = channel
        ext = ConnectionExtRosbag2(channel.message_encoding, _qos(channel.metadata))
        kind, text = (schema.encoding, schema.data) if schema else ('', '')
        definition = MessageDefinition(FORMATS.get(kind, MessageDefinitionFormat.NONE), text)
        self.connections.append(Connection(key, channel.topic, name, definition, '', 0, ext, self))

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        if self.cut and not self.chunks:
            yield from self.messages_scan(connections, start, stop)
        else:
            yield from super().messages(connections, start, stop)


class Sqlite3Remains(Sqlite3Reader):
    """A .db3 file, or its messages in the order in which they were written, up to the cut."""

    cut: str = ''
    database: sqlite3.Connection | None = None

    def open(self) -> None:
        try:
            super().open()
        except Exception:  # see open_remains
            with suppress(Exception):
                super().close()
            self._open_remains()

    def close(self) -> None:
        database, self.database = self.database, None
        if database is None:
            super().close()
            return
        self.connections.clear()
        database.close()

    def _open_remains(self) -> None:
        # Whoever reads ahead closes it in another thread than the one that opened it.
        url = f'file:{self.path}?immutable=1'
        self.database = sqlite3.connect(url, uri=True, check_same_thread=False)
        self.cut = f'{_name(self.path)} is cut off, or its index is damaged'
        # Without it SQLite opens no file that is shorter than its head says.
        self.database.execute('PRAGMA writable_schema=ON')
        columns = {row[1] for row in self.database.execute('PRAGMA table_info(topics)')}
        qos = 'offered_qos_profiles' if 'offered_qos_profiles' in columns else "''"
        counts: Counter[int] = Counter()
        first_ns, last_ns = 2**63 - 1, 0
        rows = self.database.execute('SELECT topic_id, timestamp FROM messages NOT INDEXED')
        with suppress(sqlite3.DatabaseError):  # the cut
            for topic, time_ns in rows:
                counts[topic] += 1
                first_ns, last_ns = min(first_ns, time_ns), max(last_ns, time_ns)
        query = f'SELECT id, name, type, serialization_format, {qos} FROM topics'
        self.connections = [
            Connection(
                key,
                topic,
                kind,
                MessageDefinition(MessageDefinitionFormat.NONE, ''),
                '',
                counts[key],
                ConnectionExtRosbag2(encoding, parse_qos(profiles) if profiles else []),
                self,
            )
            for key, topic, kind, encoding, profiles in self.database.execute(query)
        ]
        self.metadata = _metadata(first_ns, last_ns, counts)

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        if self.database is None:
            yield from super().messages(connections, start, stop)
            return
        by_id = {connection.id: connection for connection in connections}
        query = 'SELECT topic_id, timestamp, data FROM messages NOT INDEXED'
        with suppress(sqlite3.DatabaseError):  # the cut
            for topic, time_ns, data in self.database.execute(query):
                late = stop is not None and time_ns >= stop
                if topic in by_id and not late and (start is None or time_ns >= start):
                    yield by_id[topic], time_ns, data


class _DirectoryRemains(DirectoryReader):
    STORAGE_PLUGINS = {'mcap': McapRemains, 'sqlite3': Sqlite3Remains}  # noqa: RUF012


class RemainsReader(Reader):
    """As rosbags' own, but reads files that were cut off."""

    STORAGE_PLUGINS = {  # noqa: RUF012
        'dir': _DirectoryRemains,
        '.mcap': McapRemains,
        '.db3': Sqlite3Remains,
    }

    @property
    def storages(self) -> list[McapRemains | Sqlite3Remains]:
        """Of each file of the bag."""
        storage: Any = self.storage
        return list(getattr(storage, 'storages', [storage]))

    def messages(
        self,
        connections: Collection[Connection] = (),
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        yield from super().messages(connections, start, stop)
        raise ReaderError('; '.join(storage.cut for storage in self.storages if storage.cut))


def _name(path: Any) -> str:
    return Path(str(path)).name


def _metadata(first_ns: int, last_ns: int, counts: Counter[int]) -> ReaderMetadata:
    count = counts.total()
    span = (last_ns + 1 - first_ns, first_ns, last_ns + 1) if count else (0, 2**63 - 1, 0)
    return ReaderMetadata(*span, count, None, None, None, None)


def _records(bio: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """(type, where it starts, length) of each whole record from here on; bio is at its content."""
    at = bio.tell()
    end = bio.seek(0, 2)
    while at + RECORD_HEAD.size <= end:
        bio.seek(at)
        kind, length = RECORD_HEAD.unpack(bio.read(RECORD_HEAD.size))
        if at + RECORD_HEAD.size + length > end:
            return
        yield kind, at, length
        at += RECORD_HEAD.size + length


def _string(bio: BinaryIO) -> bytes:
    return bio.read(struct.unpack('<I', bio.read(4))[0])


def _qos(metadata: bytes) -> list[Qos]:
    """Of a channel's metadata, pairs of key and value."""
    at = BytesIO(metadata)
    while at.tell() < len(metadata):
        key, value = _string(at).decode(), _string(at).decode()
        if key == 'offered_qos_profiles':
            return parse_qos(value)
    return []


def _read_chunk_head(bio: BinaryIO, start: int, length: int) -> ChunkInfo:
    start_ns, stop_ns, uncompressed_size, _ = CHUNK_HEAD.unpack(bio.read(CHUNK_HEAD.size))
    compression = _string(bio).decode()
    (compressed_size,) = struct.unpack('<Q', bio.read(8))
    whole = RECORD_HEAD.size + length
    return ChunkInfo(
        start_ns, stop_ns, start, whole, {}, 0, compression, compressed_size, uncompressed_size, {}
    )


def _read_chunk(bio: BinaryIO, chunk: ChunkInfo) -> bytes:
    """What a chunk holds, uncompressed."""
    bio.seek(chunk.chunk_start_offset + RECORD_HEAD.size + CHUNK_HEAD.size)
    _string(bio)
    bio.seek(8, 1)
    return DECOMPRESSORS[chunk.compression](
        bio.read(chunk.compressed_size), chunk.uncompressed_size
    )
