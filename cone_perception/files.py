"""Files that are there whole or not at all, whenever a kill or a power cut comes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal


@contextlib.contextmanager
def whole_file(path: Path, mode: Literal['w', 'wb'] = 'wb') -> Iterator[IO[Any]]:
    """A file to write, text as UTF-8, that takes the place of `path` once it is on the disk.

    Until then it is `.NAME.PID.part` beside it, which a failure removes and a kill leaves behind.
    """
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with unfinished.open(mode, encoding=None if mode == 'wb' else 'utf-8') as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is there only after a failure
            unfinished.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with whole_file(path) as stream:
        stream.write(data)
