"""A bag that rosbags refuses -> its messages, record by record, up to where it was cut off.

A recorder that is killed, or a copy that breaks off, leaves a file without the index at its end.
The records before the cut are whole: this reader takes them, and then says where the file ends.
It also takes whole files whose name or metadata.yaml does not tell the storage.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from heapq import heappop, heappush
from pathlib import Path
from typing import IO, Any

import numpy as np
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag2.metadata import parse_qos

from cone_perception.bags.bounded import TooLargeError, database_url, unpack
from cone_perception.errors import SourceError
from cone_perception.files import open_ordinary, read_yaml

FORMATS = {'ros2msg': MessageDefinitionFormat.MSG, 'ros2idl': MessageDefinitionFormat.IDL}
SQLITE = b'SQLite format 3\0'
NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, '')


class CutOffReader:
    """Reads a bag up to the cut, with those names of rosbags' Reader that this package uses.

    `messages` raises EOFError after the last message before a cut. Raises any exception where
    nothing can be read: a damaged bag raises whatever its parser trips over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files, self.compression_mode = [path], None
        if path.is_dir():
            metadata = read_yaml(path / 'metadata.yaml', SourceError)
            info = metadata['rosbag2_bagfile_information']
            self._files = [path / Path(name).name for name in info['relative_file_paths']]
            mode = (info.get('compression_mode') or 'none').lower()
            self.compression_mode = None if mode == 'none' else mode
        self.compression_format = 'zstd' if self.compression_mode else None
        counts: Counter[tuple[str, str]] = Counter()
        found: dict[tuple[str, str], Connection] = {}
        times_ns = array('q')
        self._cuts: list[str] = []
        for file in self._files:
            connections: dict[int, Connection] = {}
            for key, time_ns, _ in _read(file, connections, self._cuts):
                counts[_key(connections[key])] += 1
                times_ns.append(time_ns)
            found = {_key(each): each for each in connections.values()} | found
        self.connections = [
            each._replace(id=number, msgcount=counts[key])
            for number, (key, each) in enumerate(found.items())
        ]
        self.message_count = len(times_ns)
        self.start_time, self.end_time = min(times_ns), max(times_ns) + 1
        self.duration = self.end_time - self.start_time
        # For each message, the earliest time of those that were written after it.
        later_ns = np.append(times_ns, 2**63 - 1)[:0:-1]
        self._earliest_later_ns = np.minimum.accumulate(later_ns)[::-1]

    def messages(
        self,
        connections: Collection[Connection] = (),
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, time (ns) and data of each message, in the order of the times.

        start, stop: as rosbags has them. Only those written before an earlier one are held back.
        """
        wanted = {_key(each): each for each in connections or self.connections}
        waiting: list[tuple[int, int, Connection, bytes]] = []
        numbered = enumerate(self._earliest_later_ns)
        for file in self._files:
            known: dict[int, Connection] = {}
            # A recorder may have written more since they were counted.
            read = zip(_read(file, known, []), numbered, strict=False)
            for (key, time_ns, data), (number, later_ns) in read:
                connection = wanted.get(_key(known[key]))
                in_time = (start or -(2**63)) <= time_ns < (2**64 if stop is None else stop)
                if connection is not None and in_time:
                    heappush(waiting, (time_ns, number, connection, data))
                while waiting and waiting[0][0] <= later_ns:
                    time_ns, _, connection, data = heappop(waiting)
                    if self.compression_mode == 'message':
                        data = unpack(data)
                    yield connection, time_ns, data
        if self._cuts:
            raise EOFError('; '.join(self._cuts))

    def close(self) -> None:
        """Do nothing: each walk through the messages opens and closes the files itself."""


def is_sqlite(path: Path) -> bool:
    """A file that begins as SQLite's do. Raises OSError."""
    with open_ordinary(path) as stream:
        return stream.read(len(SQLITE)) == SQLITE


def chunk_compression(path: Path) -> str:
    """Compression of an MCAP file's chunks: zstd, lz4, or empty. Raises OSError."""
    with path.open('rb') as stream, suppress(Exception):  # the cut comes before any chunk
        size = path.stat().st_size
        for record in StreamReader(stream, emit_chunks=True, record_size_limit=size).records:
            if isinstance(record, (Chunk, Message)):
                return getattr(record, 'compression', '')
    return ''


def _key(connection: Connection) -> tuple[str, str]:
    return connection.topic, connection.msgtype


def _read(
    file: Path, connections: dict[int, Connection], cuts: list[str]
) -> Iterator[tuple[int, int, bytes]]:
    """Connection's number, time (ns) and data of each message of one file.

    connections: receives each connection before its first message. cuts: receives a sentence
    where the file was cut off.
    """
    return (_read_sqlite if is_sqlite(file) else _read_mcap)(file, connections, cuts)


class _WholeReads:
    """A file whose `read` gives as many bytes as were asked for, or none.

    So StreamReader meets the end of the file where it would return a record that was cut off.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        return data if len(data) == size else b''


def _read_mcap(
    file: Path, connections: dict[int, Connection], cuts: list[str]
) -> Iterator[tuple[int, int, bytes]]:
    """Read an MCAP file, see `_read`, in the order in which the messages were written."""
    schemas: dict[int, Schema] = {}
    with file.open('rb') as stream:
        whole: Any = _WholeReads(stream)
        size = file.stat().st_size
        try:
            for record in StreamReader(whole, validate_crcs=True, record_size_limit=size).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel) and record.id not in connections:
                    connections[record.id] = _connection(record, schemas.get(record.schema_id))
                elif isinstance(record, Message):
                    yield record.channel_id, record.log_time, record.data
        except TooLargeError:
            raise
        except Exception:  # the cut: a parser raises whatever it trips over
            cuts.append(f'{file.name} is cut off after {stream.tell()} bytes')


def _connection(channel: Channel, schema: Schema | None) -> Connection:
    kind = FORMATS.get(schema.encoding, MessageDefinitionFormat.NONE) if schema else None
    profiles = channel.metadata.get('offered_qos_profiles')
    return Connection(
        channel.id,
        channel.topic,
        schema.name if schema else '__schemaless__',
        MessageDefinition(kind, schema.data.decode()) if schema and kind else NO_DEFINITION,
        '',
        0,
        ConnectionExtRosbag2(channel.message_encoding, parse_qos(profiles) if profiles else []),
        None,
    )


def _read_sqlite(
    file: Path, connections: dict[int, Connection], cuts: list[str]
) -> Iterator[tuple[int, int, bytes]]:
    """Read a .db3 file, see `_read`, in the order in which the messages were written."""
    # Whoever reads ahead may close it in another thread than the one that opened it.
    with closing(
        sqlite3.connect(database_url(file), uri=True, check_same_thread=False)
    ) as database:
        try:
            # Without it SQLite opens no file that is shorter than its head says.
            database.execute('PRAGMA writable_schema=ON')
            columns = {row[1] for row in database.execute('PRAGMA table_info(topics)')}
            qos = 'offered_qos_profiles' if 'offered_qos_profiles' in columns else "''"
            query = f'SELECT id, name, type, serialization_format, {qos} FROM topics'
            for key, topic, kind, encoding, profiles in database.execute(query):
                ext = ConnectionExtRosbag2(encoding, parse_qos(profiles) if profiles else [])
                connections[key] = Connection(key, topic, kind, NO_DEFINITION, '', 0, ext, None)
            yield from database.execute(
                'SELECT topic_id, timestamp, data FROM messages NOT INDEXED'
            )
        except sqlite3.DatabaseError:
            cuts.append(f'{file.name} is cut off, or its index is damaged')
