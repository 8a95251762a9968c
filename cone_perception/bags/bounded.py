"""What a bag unpacks to, and what SQLite does for it, is bounded.

A few bytes of zstd may stand for any number of gigabytes, and rosbags and mcap decompress whatever
a file holds: `bound_libraries` gives both of them decompressors that stop.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from urllib.parse import quote

import mcap.stream_reader
import rosbags.rosbag2.reader
import rosbags.rosbag2.storage_mcap
from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]

from cone_perception.errors import SourceError

MOST_BYTES = 256 << 20
"""In a message or a chunk: a raw picture of 8192x8192 in four channels."""

FILE_BYTES, FILE_RATIO = 1 << 30, 200
"""A compressed file may unpack to the greater of the first, and so many times its size."""

_reader: Any = rosbags.rosbag2.reader
_zstd = _reader.zstd


class TooLargeError(SourceError):
    """A part of a bag unpacks to more than the limit."""


def unpack(data: bytes, _size: int = 0, *, kind: Any = _zstd.ZstdDecompressor) -> bytes:
    """Decompress a message or a chunk. Raises TooLargeError; ValueError: it is cut off."""
    frame = kind()
    found: bytes = frame.decompress(data, MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise TooLargeError(f'a message or chunk unpacks to more than {MOST_BYTES >> 20} MiB')
    if not frame.eof:
        raise ValueError('a compressed message or chunk is cut off')
    return found


def _unpack_lz4(data: bytes, _size: int = 0) -> bytes:
    return unpack(data, kind=LZ4FrameDecompressor)


class _Unpacked:
    """A compressed file to be read, up to its limit, with those names that rosbags uses."""

    def __init__(self, file: IO[bytes], mode: str) -> None:
        self._most = max(FILE_BYTES, FILE_RATIO * os.fstat(file.fileno()).st_size)
        self._file, self._left = _zstd.open(file, mode), self._most

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise TooLargeError(f'a file of it unpacks to more than {self._most >> 20} MiB')
        return data

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def bound_libraries() -> None:
    """Put the decompressors that stop in the place of the libraries' own."""
    _reader.zstd = SimpleNamespace(decompress=unpack, open=_Unpacked)
    rosbags.rosbag2.storage_mcap.DECOMPRESSORS.update(zstd=unpack, lz4=_unpack_lz4)
    replaced: Any = mcap.stream_reader
    replaced.zstandard = SimpleNamespace(decompress=unpack)
    replaced.lz4 = SimpleNamespace(decompress=_unpack_lz4)


def database_url(file: Path) -> str:
    """A database to be read only, whatever %, # or ? is in its path."""
    return f'file:{quote(os.fsencode(file))}?immutable=1'


def check_database(file: Path) -> None:
    """Raise SourceError for a database with views: one of them may have rows without an end."""
    with (
        suppress(sqlite3.DatabaseError),  # a damaged one is read as far as it goes
        closing(sqlite3.connect(database_url(file), uri=True)) as database,
    ):
        query = "SELECT name FROM sqlite_master WHERE type = 'view'"
        for (name,) in database.execute(query):
            raise SourceError(f'{file} has a view, {name}: no recorder writes one. Remove it.')
