"""Compiled code on disk, which runs as this user: loaded only where nobody else can put it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from cone_perception.errors import InstallError
from cone_perception.files import write_whole


def check_private(path: Path) -> None:
    """Raise InstallError where somebody else may change a file, or put another in its place.

    This user and root may. So may a group of the same number as the user: its only member is the
    user, and its files are open to it where the umask is 002, as Ubuntu sets it.
    """
    path = path.resolve()
    user = os.getuid()
    for each in (path.parent, path):
        with contextlib.suppress(OSError):  # what has no status cannot be loaded either
            status = each.stat()
            others = 0o002 if status.st_gid == user else 0o022
            advice = f'or set XDG_CACHE_HOME to a folder of your own: {path} is not loaded.'
            if status.st_uid not in (0, user):
                owner = f'{each} belongs to user {status.st_uid}, not to {user}'
                raise InstallError(f'{owner}: run `chown {user} {each}`, {advice}')
            if status.st_mode & others:
                raise InstallError(f'others may write {each}: run `chmod go-w {each}`, {advice}')


def keep(path: Path, code: bytes) -> None:
    """Write compiled code behind its hash; a folder that cannot be written keeps none."""
    with contextlib.suppress(OSError):
        write_whole(path, _bound(path, code) + code, private=True)


def read_kept(path: Path) -> bytes:
    """The code that `keep` wrote under this name; empty where there is none that is whole.

    Raises InstallError where others can write it: see check_private.
    """
    check_private(path)
    try:
        content = path.read_bytes()
    except OSError:
        return b''
    return content[32:] if _bound(path, content[32:]) == content[:32] else b''


def _bound(path: Path, code: bytes) -> bytes:
    """Hash of code and of its name, which says what it was compiled from."""
    return hashlib.sha256(path.name.encode() + b'\0' + code).digest()
