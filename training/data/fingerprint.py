"""A picture file -> 256 bits that its copies share, without the frame that its set shares.

Difference hash (Krawetz 2013, "Kind of like that"): grey means of 16 rows of 17 fields; each bit
says whether a field is brighter than the one to its left. A collection's frame (FSOCO prints a
black one with the team's logo around each picture) or a letterbox is cut off before: it would
give every picture of a set the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cone_perception.dataset.labels import map_in_threads
from cone_perception.files import write_json
from cone_perception.types import UInt8

BITS = 256
VERSION = 1
"""Raised whenever the same picture gets other bits: stored ones are then computed anew."""

LEAST_SIDE_PX = 200
"""JPEG files are decoded at a quarter or half of their size where that leaves so much."""

FRAME_LEVELS = ((0, 48), (108, 134))
"""Grey levels of frames and letterboxes: black, and the 114 to 128 that networks pad with."""
FRAME_TOLERANCE = 12
FRAME_SHARE = 0.5
"""A logo or a line of text may hide so much of a frame's row; its outermost row is whole."""
FRAME_EDGE = 0.1
"""At the frame's inner edge the share of its colour falls by at least so much."""
DEEPEST_FRAME = 0.4


def hash_pictures(
    paths: Sequence[Path], workers: int | None, cache: Path | None = None
) -> list[UInt8]:
    """Per picture (2, 32) uint8: the bits as it is and mirrored; (0, 32) if it cannot be decoded.

    Computed in `workers` threads. cache: JSON file of bits by path, size and time of change.
    """
    stored = _read_cache(cache)
    keys = [_key(path) for path in paths]
    todo = {key: path for key, path in zip(keys, paths, strict=True) if key not in stored}
    hashes = map_in_threads(hash_picture, list(todo.values()), 'hash', workers=workers)
    stored |= {key: bits.tobytes().hex() for key, bits in zip(todo, hashes, strict=True)}
    if cache is not None and todo:
        write_json(cache, {'version': VERSION, 'bits': stored}, indent=None)
    return [np.frombuffer(bytes.fromhex(stored[key]), np.uint8).reshape(-1, 32) for key in keys]


def hash_picture(path: Path) -> UInt8:
    """(2, 32) uint8: the bits of a picture file, and of its mirror image; (0, 32): unreadable."""
    grey = _decode(path)
    if grey is None:
        return np.zeros((0, 32), np.uint8)
    inside = cut_frame(grey).astype(np.float32)
    means = cv2.resize(inside, (17, 16), interpolation=cv2.INTER_AREA)
    return np.stack([np.packbits(m[:, 1:] > m[:, :-1]) for m in (means, means[:, ::-1])])


def cut_frame(grey: UInt8) -> UInt8:
    """The part of an (H, W) picture inside its frame."""
    return grey[find_inside(grey)]


def find_inside(grey: UInt8) -> tuple[slice, slice]:
    """Rows and columns of an (H, W) picture inside its frame; all of them without one.

    A frame lies on both sides of the picture and is as deep on one as on the other. Where there
    are several, a letterbox around a frame, say, all go.
    """
    across, down = 0, 0
    height, width = grey.shape
    for _ in range(3):
        inside = grey[down : height - down, across : width - across]
        deeper = min(_frame_depth(inside), _frame_depth(inside[::-1]))
        down += deeper
        inside = grey[down : height - down, across : width - across].T
        wider = min(_frame_depth(inside), _frame_depth(inside[::-1]))
        across += wider
        if deeper == wider == 0:
            break
    return slice(down, height - down), slice(across, width - across)


def _frame_depth(rows: UInt8) -> int:
    """Rows of a frame, from the first one inwards; 0 without a frame."""
    first, level = _first_framed(rows)
    if first is None:
        return 0
    outer = rows[first : int(len(rows) * DEEPEST_FRAME)].astype(np.int16)
    if len(outer) < 4:
        return 0
    share = (np.abs(outer - level) <= FRAME_TOLERANCE).mean(axis=1)
    if share[0] < 0.9:
        return 0
    ends = np.flatnonzero(share < FRAME_SHARE)
    share = share[: ends[0] + 3] if len(ends) else share
    # Over two rows: decoding at half the size blurs the edge.
    fall = share[:-2] - share[2:]
    edge = int(fall.argmax())
    if fall[edge] < FRAME_EDGE:
        return 0
    sooner = share[edge] - share[edge + 1] >= share[edge + 1] - share[edge + 2]
    return first + edge + (1 if sooner else 2)


def _first_framed(rows: UInt8) -> tuple[int | None, int]:
    """The first row in a frame's colour, and the colour; an edge may have left a blurred one."""
    for first in range(3):
        level = int(np.median(rows[first])) if len(rows) > first else -1
        if any(low <= level <= high for low, high in FRAME_LEVELS):
            return first, level
    return None, 0


def _decode(path: Path) -> UInt8 | None:
    """(H, W) grey, as small as is enough."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    if not len(data):
        return None
    sizes = (cv2.IMREAD_REDUCED_GRAYSCALE_4, cv2.IMREAD_REDUCED_GRAYSCALE_2, cv2.IMREAD_GRAYSCALE)
    for size in sizes:
        grey: UInt8 | None = cv2.imdecode(data, size)
        if grey is None or min(grey.shape) >= LEAST_SIDE_PX:
            break
    return grey


def _key(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return str(path)
    return f'{path}|{stat.st_size}|{stat.st_mtime_ns}'


def _read_cache(cache: Path | None) -> dict[str, str]:
    """What was hashed before; empty when the file is missing, damaged, or of another version."""
    try:
        stored = json.loads(cache.read_text(encoding='utf-8')) if cache else {}
        return dict(stored['bits']) if stored['version'] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
