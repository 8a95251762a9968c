"""Files that are whole or absent after a kill, locks, JSON without NaN, the cache folder.

Only Python's own library: `cone_perception.interfaces.build` runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import UnionType
from typing import IO, Any, Literal, get_args, get_origin, get_type_hints

from cone_perception.errors import ConePerceptionError, InstallError, OutputError, told_as


@contextlib.contextmanager
def whole_file(path: Path, mode: Literal['w', 'wb'] = 'wb') -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` once it is on the disk; text is UTF-8.

    Until then it is `.NAME.PID.part` beside it, which a failure removes and a kill leaves behind.
    A file's name that is no UTF-8 is written as JSON escapes it.
    """
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        text = (None, None) if mode == 'wb' else ('utf-8', 'backslashreplace')
        with unfinished.open(mode, -1, *text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it is there only after a failure
            unfinished.unlink()


def write_whole(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Replace a file, its folder made where it is missing, so that a kill leaves old or new.

    private: nobody else may write it, nor a folder that is made, whatever the umask says.
    """
    path.parent.mkdir(0o755 if private else 0o777, parents=True, exist_ok=True)
    with whole_file(path) as stream:
        if private:
            os.fchmod(stream.fileno(), os.fstat(stream.fileno()).st_mode & 0o755)
        stream.write(
            content if isinstance(content, bytes) else content.encode(errors='backslashreplace')
        )


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield the place of a folder to be made, which becomes `path` once it is whole.

    The place has the same name, in `.NAME.part` beside `path`, which a failure removes; what a
    kill left there is removed by the next. Raises OSError: when `path` exists, or another process
    makes it.
    """
    unfinished = path.with_name(f'.{path.name}.part')
    unfinished.mkdir(parents=True, exist_ok=True)
    with locked(unfinished):
        shutil.rmtree(unfinished / path.name, ignore_errors=True)
        try:
            yield unfinished / path.name
            (unfinished / path.name).rename(path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object, *, indent: int | None = 2, private: bool = False) -> None:
    """Write `to_json` of a value and a line's end, whole or not at all. private: see write_whole"""
    write_whole(path, to_json(value, indent=indent) + '\n', private=private)


def to_json(
    value: object, *, indent: int | None = None, sort_keys: bool = False, digits: int | None = None
) -> str:
    """JSON text. NaN and infinities become null; see `without_nan` for what else is converted."""
    return json.dumps(
        without_nan(value, digits),
        indent=indent,
        separators=None if indent else (',', ':'),
        sort_keys=sort_keys,
        allow_nan=False,
        ensure_ascii=False,
    )


def without_nan(value: Any, digits: int | None = None) -> Any:
    """Turn a value into JSON's own types; a float that is not finite becomes None.

    digits: significant ones that are kept of a float; None: all. Takes dataclasses, mappings,
    sequences, sets (sorted), paths, numpy's scalars and arrays. Raises TypeError for anything else.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        kept = float(value if digits is None else f'{value:.{digits}g}')
        return kept if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(entry, digits) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return [without_nan(entry, digits) for entry in sorted(value)]
    if isinstance(value, Sequence):
        return [without_nan(entry, digits) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: without_nan(getattr(value, name), digits) for name in names}
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, 'tolist'):  # numpy's scalars and arrays
        return without_nan(value.tolist(), digits)
    raise TypeError(f'{type(value).__name__} has no place in JSON: {value!r:.60}')


def from_json(kind: Any, raw: Any, name: str) -> Any:
    """Make a value of an annotated type from JSON's own types, called `name` in errors.

    Knows dataclasses, `tuple[X, ...]`, `Mapping[str, X]`, `X | None`, Literal, Any, str, bool, int,
    and float, which takes an int, too, and NaN as null, as `to_json` writes it.
    Raises ValueError; TypeError: where a dataclass lacks an entry.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) or origin is Mapping:
        if not isinstance(raw, dict):
            raise ValueError(f'{name} must be a JSON object, got {raw!r:.60}')
        if origin is Mapping:
            return {key: from_json(parts[1], value, key) for key, value in raw.items()}
        kinds = get_type_hints(kind)
        if unknown := sorted(set(raw) - set(kinds)):
            there = ', '.join(sorted(kinds))
            raise ValueError(f'{name}: there is no entry {", ".join(unknown)}; there are {there}')
        return kind(**{key: from_json(kinds[key], value, key) for key, value in raw.items()})
    if origin is tuple:
        if not isinstance(raw, list | tuple):
            raise ValueError(f'{name} must be a list of {parts[0].__name__}, got {raw!r:.60}')
        return tuple(from_json(parts[0], entry, name) for entry in raw)
    if origin is UnionType:
        return None if raw is None else from_json(parts[0], raw, name)
    if kind is float and raw is None:
        return math.nan
    if origin is Literal:
        if raw not in parts:
            raise ValueError(f'{name} must be one of {", ".join(map(str, parts))}, got {raw!r:.60}')
    elif kind is not Any and type(raw) not in ((int, float) if kind is float else (kind,)):
        raise ValueError(f'{name} must be of type {kind.__name__}, got {raw!r:.60}')
    return raw


MOST_BYTES, MOST_VALUES, DEEPEST, LARGEST = 16 << 20, 1_000_000, 100, 1 << 64
"""Limits of a YAML or JSON text from outside; LARGEST: of its whole numbers."""


def open_ordinary(path: Path) -> IO[bytes]:
    """Open a file to be read. Raises OSError, also for a pipe or a device: these never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f'{path} is no ordinary file')
    return os.fdopen(descriptor, 'rb')


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Text of an ordinary file in UTF-8. Raises OSError, and ValueError: too long, or no UTF-8."""
    with open_ordinary(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f'it is longer than {most_bytes} bytes')
    return content.decode('utf-8-sig')


def parse_json(text: str) -> Any:
    """Value of a JSON text. Raises ValueError: it is none, or beyond the limits."""
    if sum(map(text.count, '[{,')) > MOST_VALUES:
        raise ValueError(f'it holds more than {MOST_VALUES} values')
    try:
        return _within_limits(json.loads(text))
    except RecursionError:
        raise ValueError(f'it is nested more than {DEEPEST} deep') from None


def parse_yaml(text: str) -> Any:
    """Value of a YAML text. Raises ValueError: it is none, or beyond the limits."""
    import yaml

    try:
        return _within_limits(yaml.load(text, _yaml_loader()))
    except RecursionError:
        raise ValueError(f'it is nested more than {DEEPEST} deep') from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


@functools.cache
def _yaml_loader() -> Any:
    import yaml

    safe: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)

    class Loader(safe):  # type: ignore[misc]
        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            if len(node.value) > 10_000:
                raise ValueError('its merged keys (<<) are more than 10000')

    return Loader


def _within_limits(value: Any) -> Any:
    """Return a value that was read. Raises ValueError: what aliases make of it is too much."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            limit = f'nested more than {DEEPEST} deep' if depth > DEEPEST else 'too large'
            raise ValueError(f'it is {limit}, aliases included')
        if isinstance(each, dict):
            waiting += ((part, depth + 1) for entry in each.items() for part in entry)
        elif isinstance(each, (list, tuple, set)):
            waiting += ((part, depth + 1) for part in each)
        elif isinstance(each, str):
            if '\0' in each:
                raise ValueError(f'{each[:60]!r} holds a NUL')
        elif isinstance(each, (int, float)) and not abs(each) < LARGEST:
            raise ValueError(f'{each!s:.20} is no number below 2**64')
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises OSError and ValueError."""
    return parse_json(read_text(path))


def read_yaml(path: Path, kind: type[ConePerceptionError]) -> Any:
    """Read a YAML or JSON file. Raises `kind` when it cannot be read or is no YAML."""
    with told_as(kind, f'{path} cannot be read as YAML', OSError, ValueError):
        return parse_yaml(read_text(path))


def read_noted(path: Path) -> dict[str, Any]:
    """The JSON object in a file that can do without; empty where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}


def cache_folder(name: str) -> Path:
    """Folder for what can be made again: `cone_perception/NAME` in XDG_CACHE_HOME or ~/.cache.

    Raises InstallError: this user has no home.
    """
    try:
        root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    except RuntimeError as error:
        raise InstallError('this user has no home folder: set HOME or XDG_CACHE_HOME.') from error
    return Path(root) / 'cone_perception' / name


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r'[^A-Za-z0-9_.]+', '-', text).strip('-').lower() or 'model'


_HELD: set[int] = set()
"""Descriptors of the lock files and folders that this process holds."""


def _let_go() -> None:
    for descriptor in _HELD:
        os.close(descriptor)


os.register_at_fork(after_in_child=_let_go)


class LockedError(OSError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a folder, or a lock file, made where it is missing; yields whether it had to wait.

    The kernel lets go when this process ends, however it ends; a child that it forked does not
    hold on to it (filelock's locks would live on in a data loader's workers). A link is not
    followed to a lock file: in /tmp anybody may put one there.
    Raises LockedError when another process holds it and `wait` is false; OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        waited = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise LockedError(f'{path} is held by another process') from None
            waited = True
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        _HELD.add(descriptor)
        yield waited
    finally:
        _HELD.discard(descriptor)
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock file now."""
    if not path.is_file():
        return False
    with path.open('r', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


_CLAIMED: dict[tuple[int, int], contextlib.ExitStack] = {}
"""Device and inode of a folder of results -> its lock, which is held until this process ends."""


def claim_folder(
    out: Path, mark: str, left_by_earlier_runs: Sequence[str], source: Path | None
) -> None:
    """Make `out` a folder of this process alone, without what an earlier run left there.

    mark: name of a file that says whose folder it is. source: what the command reads, if anything.
    Raises OutputError when it holds the source, or anything that is not the command's, and while
    another process writes into it.
    """
    if source is not None and out.resolve() in (source.resolve(), *source.resolve().parents):
        raise OutputError(f'{out} holds {source}: give another --out.')
    with told_as(OutputError, f'{out} cannot be written', advice='Give another --out.'):
        if out.exists() and not (out / mark).exists() and any(out.iterdir()):
            raise OutputError(f'{out} holds other files: give a new or an empty folder as --out.')
        out.mkdir(parents=True, exist_ok=True)
        status = out.stat()
        if (status.st_dev, status.st_ino) not in _CLAIMED:
            with contextlib.ExitStack() as stack:
                stack.enter_context(locked(out))
                _CLAIMED[status.st_dev, status.st_ino] = stack.pop_all()
        for name in left_by_earlier_runs:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        (out / mark).touch()
