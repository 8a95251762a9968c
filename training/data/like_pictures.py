"""Picture files -> 256 bits that copies share -> pairs that are alike, mirrored too.

Difference hash (Krawetz 2013, "Kind of like that"): grey means of 16 rows of 17 fields; each bit
says whether a field is brighter than the one to its left. A collection's frame (FSOCO prints a
black one with the team's logo around each picture) or a letterbox is cut off before: it would
give every picture of a set the same bits.

With bits written as +1 and -1, the dot product of two rows is 256 - 2 * distance: whole numbers,
which float32 holds exactly, and a matrix product is what a CPU does fastest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, groupby, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.dataset.labels import map_in_threads
from cone_perception.files import read_noted, write_json
from cone_perception.types import Float32, Int64, UInt8

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

JUDGED = ('val', 'test')
"""Splits that select or judge a model: training must not have seen anything like their pictures."""

Relation = Literal['between sets', 'between splits', 'within a split']
RELATIONS: tuple[Relation, ...] = get_args(Relation)

BLOCK = 2048
KEPT = 100_000
"""Pairs that are listed per relation, closest first; all are counted, all count for exclusion."""
CLOSEST = 12
"""Pairs per relation that the contact sheet shows, however far apart."""
BIN = 4
"""Bits per bin of the histogram."""


def hash_pictures(
    paths: Sequence[Path], workers: int | None, cache: Path | None = None
) -> list[UInt8]:
    """Per picture (2, 32) uint8: the bits as it is and mirrored; (0, 32) if it cannot be decoded.

    Computed in `workers` threads. cache: JSON file of bits by path, size and time of change.
    """
    noted = read_noted(cache) if cache else {}
    stored = dict(noted['bits']) if noted.get('version') == VERSION else {}
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


def cut_frame(picture: UInt8) -> UInt8:
    """The part of an (H, W) grey or (H, W, 3) BGR picture inside its frame; all without one.

    A frame lies on both sides of the picture and is as deep on one as on the other. Where there
    are several, a letterbox around a frame, say, all go.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if picture.ndim == 3 else picture
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
    return np.ascontiguousarray(picture[down : height - down, across : width - across])


def _frame_depth(rows: UInt8) -> int:
    """Rows of a frame, from the first one inwards; 0 without a frame."""
    for first in range(min(3, len(rows))):  # an edge may have left a blurred one
        level = int(np.median(rows[first]))
        if any(low <= level <= high for low, high in FRAME_LEVELS):
            break
    else:
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


def _decode(path: Path) -> UInt8 | None:
    """(H, W) grey, as small as is enough."""
    for size in ('REDUCED_GRAYSCALE_4', 'REDUCED_GRAYSCALE_2', 'GRAYSCALE'):
        grey: UInt8 | None = cv2.imread(str(path), getattr(cv2, f'IMREAD_{size}'))
        if grey is None or min(grey.shape) >= LEAST_SIDE_PX:
            break
    return grey


def _key(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return str(path)
    return f'{path}|{stat.st_size}|{stat.st_mtime_ns}'


class SetPicture(NamedTuple):
    """A picture. path: relative to the data set's folder, or absolute outside of it."""

    dataset: str
    split: str
    path: str

    def __str__(self) -> str:
        return f'{self.place}: {self.path}'

    @property
    def place(self) -> str:
        return f'{self.dataset}/{self.split}'


@dataclass(frozen=True, slots=True)
class PicturePair:
    """Two pictures. bits: of 256 that differ. mirrored: one is like the other's mirror image."""

    a: SetPicture
    b: SetPicture
    bits: int
    mirrored: bool
    relation: Relation


def _relation(a: SetPicture, b: SetPicture) -> Relation:
    if a.dataset != b.dataset:
        return 'between sets'
    return 'between splits' if a.split != b.split else 'within a split'


class LikeSearch:
    """Distances between all pictures in bits, block by block; made, it has searched.

    pictures: those of one split of one set follow each other. table: (N, 2, 32) uint8, their bits
    as they are and mirrored. bits: pairs that differ by no more are alike.
    counts: of pairs that are alike, per two places `set/split`.
    """

    def __init__(self, pictures: Sequence[SetPicture], table: UInt8, bits: int) -> None:
        self._pictures = pictures
        self._bits = bits
        signs = np.unpackbits(table, axis=2).astype(np.float32) * 2 - 1
        self._plain, self._mirrored = np.ascontiguousarray(signs[:, 0]), signs[:, 1]
        count = len(pictures)
        self._nearest = {name: np.full(count, BITS + 1, np.int16) for name in RELATIONS}
        self._partner = {name: np.full(count, -1, np.int64) for name in RELATIONS}
        self._found: dict[str, list[Int64]] = {name: [] for name in RELATIONS}
        self._leaking = np.zeros(count, bool)
        self.counts: Counter[tuple[str, str]] = Counter()
        jobs = list(combinations_with_replacement(self._blocks(), 2))
        for a, b in tqdm(jobs, unit='block', desc='compare'):
            self._compare(a, b)

    def _blocks(self) -> Iterator[slice]:
        """Yield blocks of pictures, each of one split of one set."""
        start = 0
        for _, group in groupby(self._pictures, key=lambda picture: picture.place):
            stop = start + len(list(group))
            for first in range(start, stop, BLOCK):
                yield slice(first, min(first + BLOCK, stop))
            start = stop

    def _compare(self, a: slice, b: slice) -> None:
        straight = _distance(self._plain[a], self._plain[b])
        mirrored = _distance(self._plain[a], self._mirrored[b])
        distance = np.minimum(straight, mirrored)
        if a == b:  # each two once, and no picture with itself
            distance[np.tril_indices(len(distance))] = BITS + 1
        first, second = self._pictures[a.start], self._pictures[b.start]
        relation = _relation(first, second)
        self._note_nearest(relation, a, b, distance)
        self._note_nearest(relation, b, a, distance.T)
        rows, columns = np.nonzero(distance <= self._bits)
        if not len(rows):
            return
        self.counts[first.place, second.place] += len(rows)
        if first.split == 'train' and second.split in JUDGED:
            self._leaking[rows + a.start] = True
        if second.split == 'train' and first.split in JUDGED:
            self._leaking[columns + b.start] = True
        flipped = mirrored[rows, columns] < straight[rows, columns]
        pairs = [rows + a.start, columns + b.start, distance[rows, columns], flipped]
        found = self._found[relation]
        found.append(np.stack(pairs, axis=1).astype(np.int64))
        if sum(map(len, found)) > 4 * KEPT:
            found[:] = [_closest_first(found)]

    def _note_nearest(self, relation: Relation, own: slice, other: slice, distance: Any) -> None:
        column = distance.argmin(axis=1)
        value = np.take_along_axis(distance, column[:, None], axis=1)[:, 0]
        nearest, partner = self._nearest[relation][own], self._partner[relation][own]
        closer = value < nearest
        nearest[closer] = value[closer]
        partner[closer] = column[closer] + other.start

    def pairs(self) -> tuple[PicturePair, ...]:
        """Pairs that are alike, closest first; at most KEPT per relation."""
        rows = [row.tolist() for name in RELATIONS for row in _closest_first(self._found[name])]
        return tuple(self._pair(*row) for row in sorted(rows, key=lambda row: row[2]))

    def _pair(self, a: int, b: int, bits: int, mirrored: bool) -> PicturePair:
        ends = self._pictures[a], self._pictures[b]
        return PicturePair(*ends, bits, bool(mirrored), _relation(*ends))

    def exclusions(self, dataset: str) -> tuple[str, ...]:
        """Training pictures of a set that are like a picture of any set's val or test."""
        leaking = [self._pictures[index] for index in np.flatnonzero(self._leaking).tolist()]
        return tuple(picture.path for picture in leaking if picture.dataset == dataset)

    def closest(self) -> tuple[PicturePair, ...]:
        """CLOSEST pairs of each relation, alike or not."""
        found = []
        for name in RELATIONS:
            nearest, partner = self._nearest[name], self._partner[name]
            order = nearest.argsort(kind='stable')[: 2 * CLOSEST].tolist()
            ends = [tuple(sorted((index, int(partner[index])))) for index in order]
            bits = dict(zip(ends, nearest[order].tolist(), strict=True))
            for a, b in [(a, b) for a, b in bits if a >= 0][:CLOSEST]:
                straight = int((self._plain[a] != self._plain[b]).sum())
                found.append(self._pair(a, b, bits[a, b], bits[a, b] < straight))
        return tuple(found)

    def histograms(self) -> dict[str, tuple[int, ...]]:
        """Per relation, pictures by the distance to their nearest one, in bins of BIN bits."""
        edges = np.arange(0, BITS + BIN, BIN)
        return {
            name: tuple(np.histogram(values[values <= BITS], edges)[0].tolist())
            for name, values in self._nearest.items()
        }


def _distance(a: Float32, b: Float32) -> np.ndarray[Any, np.dtype[np.int16]]:
    """(N, M) bits that differ."""
    return np.asarray((BITS - (a @ b.T).astype(np.int16)) // 2, np.int16)


def _closest_first(found: Sequence[Int64]) -> Int64:
    """(N, 4) rows of all blocks, closest first, at most KEPT."""
    rows = np.concatenate([np.zeros((0, 4), np.int64), *found])
    return rows[rows[:, 2].argsort(kind='stable')][:KEPT]


def find_consecutive(pictures: Sequence[SetPicture], table: UInt8) -> Iterator[PicturePair]:
    """Yield pictures whose file numbers follow each other, in different splits of a set."""
    numbered: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for index, picture in enumerate(pictures):
        # Roboflow appends `_jpg.rf.<32 hexadecimal digits>` to the name it was given.
        stem = re.sub(r'_[a-z]+\.rf\.\w+$', '', Path(picture.path).stem)
        if match := re.fullmatch(r'(.*?)(\d+)(\D*)', stem, re.DOTALL):
            key = (picture.dataset, match[1], match[3])
            numbered.setdefault(key, []).append((int(match[2]), index))
    for members in numbered.values():
        for (number, a), (following, b) in pairwise(sorted(members)):
            if following - number <= 1 and pictures[a].split != pictures[b].split:
                differing = np.unpackbits(table[a, 0] ^ table[b], axis=1).sum(axis=1).tolist()
                found = min(differing), differing[1] < differing[0]
                yield PicturePair(pictures[a], pictures[b], *found, 'between splits')
