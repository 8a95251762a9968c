"""Checkpoints that are there whole or not at all, and the newest one that can be read. No torch."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

from cone_perception.errors import ModelError

PREVIOUS = 'previous.pt'
"""The checkpoint before last.pt."""


def replace_file(part: Path, whole: Path) -> None:
    """Put a file that was written to the end in the place of another."""
    sync_file(part)
    part.replace(whole)


def sync_file(path: Path) -> None:
    """Wait until a file that was written to the end is on the disk."""
    with path.open('rb') as file:
        os.fsync(file.fileno())


def last_checkpoint(weights: Path) -> Path | None:
    """The newest checkpoint in a folder that can be read; None: nothing was saved yet.

    Raises ModelError when there are some and all are damaged.
    """
    saved = [path for name in ('last.pt', PREVIOUS) if (path := weights / name).is_file()]
    for path in saved:
        if is_whole(path):
            return path
    if saved:
        raise ModelError(
            f'{" and ".join(map(str, saved))} cannot be read: the disk failed, or another program '
            f'wrote there. Delete {weights.parent} to train it from its start.'
        )
    return None


def is_whole(checkpoint: Path) -> bool:
    """A checkpoint was written to its end, and nothing in it has changed since."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, zlib.error):
        return False
