"""Compiled code that is kept between starts, behind its own hash."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path

from cone_perception.files import write_whole

_DIGEST_BYTES = 32


def keep(path: Path, code: bytes) -> None:
    """Write code; where the folder cannot be written, the next start compiles it again."""
    with contextlib.suppress(OSError):
        write_whole(path, hashlib.sha256(code).digest() + code)


def read_kept(path: Path) -> bytes:
    """The code of a file that `keep` wrote; empty where there is none that is whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return b''
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else b''


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r'[^A-Za-z0-9_.]+', '-', text).strip('-').lower() or 'model'
