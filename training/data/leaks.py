"""Near-duplicates between and within data sets, and what training has to leave out for them.

data sets -> fingerprints -> pairs of like pictures -> pictures to exclude

A test or validation split is never touched: what is like one of its pictures leaves the training
splits, of the same set and of all others.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cone_perception.dataset.layout import Layout, find_data_yaml, read_layout
from cone_perception.errors import DataError, OutputError, SettingsError
from cone_perception.files import write_json
from cone_perception.pictures.draw import draw_caption
from cone_perception.types import Float32, UInt8
from training.data.fingerprint import BITS, default_workers, hash_pictures
from training.recipe.recipe import Leaks

JUDGED = ('val', 'test')
"""Splits that select or judge a model: training must not have seen anything like their pictures."""

RELATIONS = ('between sets', 'between splits', 'within a split')
Relation = Literal['between sets', 'between splits', 'within a split']

BLOCK = 2048
KEPT = 100_000
"""Pairs that are listed per relation, closest first; all are counted, all count for exclusion."""
CLOSEST = 12
"""Pairs per relation that the contact sheet shows, however far apart."""
BIN = 4
"""Bits per bin of the histogram."""

TILE_WIDTH_PX, TILE_HEIGHT_PX = 300, 200


@dataclass(frozen=True, slots=True)
class Picture:
    """Where a picture is. path: relative to the data set's folder, or absolute outside of it."""

    dataset: str
    split: str
    path: str

    def __str__(self) -> str:
        return f'{self.dataset}/{self.split}: {self.path}'


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures. bits: of 256 that differ. mirrored: one is like the other's mirror image."""

    a: Picture
    b: Picture
    bits: int
    mirrored: bool

    @property
    def relation(self) -> Relation:
        if self.a.dataset != self.b.dataset:
            return 'between sets'
        return 'between splits' if self.a.split != self.b.split else 'within a split'


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What `find_leaks` found.

    bits: pairs that differ by no more are alike. roots: folder of each set. pictures: per set and
    split. pairs: alike, closest first; at most KEPT per relation are listed. counts: all of them,
    per two places `set/split`. exclusions: per set, pictures of `train` that are like a picture of
    any set's val or test. closest: of each relation the closest pairs, alike or not. nearest: per
    relation, pictures by the distance to their nearest one, in bins of BIN bits.
    consecutive: file numbers that follow each other, in different splits of a set, whatever their
    distance. unreadable: pictures that cannot be decoded, and were left aside.
    """

    bits: int
    roots: Mapping[str, Path]
    pictures: Mapping[str, Mapping[str, int]]
    pairs: tuple[Pair, ...]
    counts: Mapping[tuple[str, str], int]
    exclusions: Mapping[str, tuple[str, ...]]
    closest: tuple[Pair, ...]
    nearest: Mapping[str, tuple[int, ...]]
    consecutive: tuple[Pair, ...]
    unreadable: tuple[Picture, ...]

    def excluded(self, dataset: str) -> set[Path]:
        """Files that training on this set leaves out, as `read_layout` lists them."""
        return {self.roots[dataset] / path for path in self.exclusions.get(dataset, ())}

    def path_of(self, picture: Picture) -> Path:
        return self.roots[picture.dataset] / picture.path

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            'bits': self.bits,
            'sets': {
                name: {'path': str(root), 'pictures': dict(self.pictures[name])}
                for name, root in self.roots.items()
            },
            'counts': [[a, b, count] for (a, b), count in self.counts.items()],
            'listed': len(self.pairs),
            'exclusions': {name: list(paths) for name, paths in self.exclusions.items()},
            'nearest': {'bin_bits': BIN, **{name: list(row) for name, row in self.nearest.items()}},
            'unreadable': [str(picture) for picture in self.unreadable],
            'consecutive': [_pair_json(pair) for pair in self.consecutive],
            'closest': [_pair_json(pair) for pair in self.closest],
            'pairs': [_pair_json(pair) for pair in self.pairs],
        }

    def write_contact_sheet(self, path: Path) -> None:
        """Write a PNG of the closest pairs of each relation, those between sets first.

        Raises OutputError when it cannot be written.
        """
        rows = [self._tile(pair) for pair in self.closest]
        columns = 3
        blank = np.zeros((TILE_HEIGHT_PX, 2 * TILE_WIDTH_PX, 3), np.uint8)
        rows += [blank] * (-len(rows) % columns or (0 if rows else columns))
        sheet = np.vstack(
            [np.hstack(rows[start : start + columns]) for start in range(0, len(rows), columns)]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), sheet):
            raise OutputError(f'{path} cannot be written: give a PNG file in a folder of yours')

    def _tile(self, pair: Pair) -> UInt8:
        tile = np.hstack([self._thumbnail(pair.a), self._thumbnail(pair.b)])
        mirrored = ' mirrored' if pair.mirrored else ''
        alike = 'ALIKE' if pair.bits <= self.bits else 'not alike'
        for row, text in enumerate(
            (f'{pair.bits} bits{mirrored}: {alike}, {pair.relation}', str(pair.a), str(pair.b))
        ):
            draw_caption(tile[16 * row :], text[:88])
        return tile

    def _thumbnail(self, picture: Picture) -> UInt8:
        bgr = cv2.imread(str(self.path_of(picture)), cv2.IMREAD_COLOR)
        if bgr is None:
            return np.zeros((TILE_HEIGHT_PX, TILE_WIDTH_PX, 3), np.uint8)
        small = cv2.resize(bgr, (TILE_WIDTH_PX, TILE_HEIGHT_PX), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)


def find_leaks(
    sets: Mapping[str, Path],
    bits: int = Leaks().bits,
    *,
    workers: int | None = None,
    cache: Path | None = None,
) -> LeakReport:
    """Compare every picture with every other one of the data sets, mirrored too.

    sets: name -> folder with data.yaml, or the file. bits: of 256 that may differ. workers:
    threads that hash, by default one per processor. cache: file that keeps the hashes.
    Raises DataError when a path is no data set, or two names mean the same one; SettingsError when
    `bits` is impossible.
    """
    if not 0 <= bits <= BITS // 4:
        raise SettingsError(
            f'leaks.bits is {bits}; it must be 0 to {BITS // 4}: unrelated pictures differ by more.'
        )
    layouts = {name: read_layout(path) for name, path in sets.items()}
    _refuse_repeats(sets)
    listed = [
        (Picture(name, split, layout.shorten(path)), path)
        for name, layout in layouts.items()
        for split, paths in layout.splits.items()
        for path in paths
    ]
    hashes = hash_pictures([path for _, path in listed], workers or default_workers(), cache)
    pictures = [picture for (picture, _), found in zip(listed, hashes, strict=True) if len(found)]
    unreadable = [
        picture for (picture, _), found in zip(listed, hashes, strict=True) if not len(found)
    ]
    readable = [found for found in hashes if len(found)]
    table = np.stack(readable) if readable else np.zeros((0, 2, 32), np.uint8)
    search = _Search(pictures, table, bits)
    search.run()
    return LeakReport(
        bits=bits,
        roots={name: layout.root for name, layout in layouts.items()},
        pictures={name: _count(layout) for name, layout in layouts.items()},
        pairs=search.pairs(),
        counts=dict(search.counts),
        exclusions={name: search.exclusions(name) for name in layouts},
        closest=search.closest(),
        nearest=search.histograms(),
        consecutive=tuple(_find_consecutive(pictures, table)),
        unreadable=tuple(unreadable),
    )


class _Search:
    """Hamming distances between all pictures, block by block.

    With bits written as +1 and -1, the dot product of two rows is 256 - 2 * distance: whole
    numbers, which float32 holds exactly, and a matrix product is what a CPU does fastest.
    """

    def __init__(self, pictures: Sequence[Picture], table: UInt8, bits: int) -> None:
        self._pictures = pictures
        self._bits = bits
        signs = np.unpackbits(table, axis=2).astype(np.float32) * 2 - 1
        self._plain, self._mirrored = np.ascontiguousarray(signs[:, 0]), signs[:, 1]
        self._places = _places(pictures)
        count = len(pictures)
        self._nearest = {name: np.full(count, BITS + 1, np.int16) for name in RELATIONS}
        self._partner = {name: np.full(count, -1, np.int64) for name in RELATIONS}
        self._found: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in RELATIONS}
        self._leaking = np.zeros(count, bool)
        self.counts: Counter[tuple[str, str]] = Counter()

    def run(self) -> None:
        jobs = list(self._jobs())
        pairs = sum((a.stop - a.start) * (b.stop - b.start) for a, b in jobs)
        with tqdm(total=pairs, unit='pair', unit_scale=True, desc='compare') as bar:
            for a, b in jobs:
                self._compare(a, b)
                bar.update((a.stop - a.start) * (b.stop - b.start))

    def _jobs(self) -> Iterator[tuple[slice, slice]]:
        """Two blocks of pictures, each of one split of one set; every two once."""
        blocks = [
            slice(start, min(start + BLOCK, place.stop))
            for place in self._places
            for start in range(place.start, place.stop, BLOCK)
        ]
        for index, a in enumerate(blocks):
            for b in blocks[index:]:
                yield a, b

    def _compare(self, a: slice, b: slice) -> None:
        straight = self._distance(self._plain[a], self._plain[b])
        mirrored = self._distance(self._plain[a], self._mirrored[b])
        distance = np.minimum(straight, mirrored)
        if a == b:
            # Each two once, and no picture with itself.
            distance[np.tril_indices(len(distance))] = BITS + 1
        first, second = self._pictures[a.start], self._pictures[b.start]
        relation = Pair(first, second, 0, False).relation
        self._note_nearest(relation, a, b, distance)
        rows, columns = np.nonzero(distance <= self._bits)
        if not len(rows):
            return
        self.counts[_place(first), _place(second)] += len(rows)
        if first.split == 'train' and second.split in JUDGED:
            self._leaking[rows + a.start] = True
        if second.split == 'train' and first.split in JUDGED:
            self._leaking[columns + b.start] = True
        like = distance[rows, columns]
        flipped = mirrored[rows, columns] < straight[rows, columns]
        found = self._found[relation]
        found.append(np.stack([rows + a.start, columns + b.start, like, flipped], axis=1))
        if sum(map(len, found)) > 4 * KEPT:
            found[:] = [_sorted(found)[:KEPT]]

    @staticmethod
    def _distance(a: Float32, b: Float32) -> npt.NDArray[np.int16]:
        """(N, M) bits that differ."""
        product = a @ b.T
        distance: npt.NDArray[np.int16] = (BITS - product.astype(np.int16)) // 2
        return distance

    def _note_nearest(
        self, relation: Relation, a: slice, b: slice, distance: npt.NDArray[np.int16]
    ) -> None:
        for own, other, table in ((a, b, distance), (b, a, distance.T)):
            column = table.argmin(axis=1)
            value = np.take_along_axis(table, column[:, None], axis=1)[:, 0]
            nearest, partner = self._nearest[relation][own], self._partner[relation][own]
            closer = value < nearest
            nearest[closer] = value[closer]
            partner[closer] = column[closer] + other.start

    def pairs(self) -> tuple[Pair, ...]:
        rows = [row for name in RELATIONS for row in _sorted(self._found[name])[:KEPT]]
        return tuple(sorted(map(self._pair, rows), key=lambda pair: pair.bits))

    def _pair(self, row: npt.NDArray[np.int64]) -> Pair:
        a, b, bits, mirrored = map(int, row)
        return Pair(self._pictures[a], self._pictures[b], bits, bool(mirrored))

    def exclusions(self, dataset: str) -> tuple[str, ...]:
        leaking = [self._pictures[index] for index in np.flatnonzero(self._leaking).tolist()]
        return tuple(picture.path for picture in leaking if picture.dataset == dataset)

    def closest(self) -> tuple[Pair, ...]:
        found = []
        for name in RELATIONS:
            nearest, partner = self._nearest[name], self._partner[name]
            seen: set[tuple[int, int]] = set()
            for index in nearest.argsort(kind='stable')[: 2 * CLOSEST].tolist():
                a, b = sorted((index, int(partner[index])))
                if a < 0 or (a, b) in seen or len(seen) == CLOSEST:
                    continue
                seen.add((a, b))
                straight = int((self._plain[a] != self._plain[b]).sum())
                bits = int(nearest[index])
                found.append(Pair(self._pictures[a], self._pictures[b], bits, bits < straight))
        return tuple(found)

    def histograms(self) -> dict[str, tuple[int, ...]]:
        edges = np.arange(0, BITS + BIN, BIN)
        return {
            name: tuple(np.histogram(values[values <= BITS], edges)[0].tolist())
            for name, values in self._nearest.items()
        }


def _places(pictures: Sequence[Picture]) -> list[slice]:
    """Runs of pictures of one split of one set."""
    found, start = [], 0
    for _, group in groupby(pictures, key=_place):
        stop = start + len(list(group))
        found.append(slice(start, stop))
        start = stop
    return found


def _place(picture: Picture) -> str:
    return f'{picture.dataset}/{picture.split}'


def _sorted(found: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """(N, 4) rows of all blocks, closest first."""
    rows = np.concatenate([np.zeros((0, 4), np.int64), *found])
    return rows[rows[:, 2].argsort(kind='stable')]


def _count(layout: Layout) -> dict[str, int]:
    return {split: len(paths) for split, paths in layout.splits.items()}


def _refuse_repeats(sets: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for name, path in sets.items():
        data_yaml = find_data_yaml(path).resolve()
        if data_yaml in seen:
            raise DataError(
                f'{name} and {seen[data_yaml]} are the same data set, {data_yaml}: every picture '
                'would leak. Give it once.'
            )
        seen[data_yaml] = name


def _find_consecutive(pictures: Sequence[Picture], table: UInt8) -> Iterator[Pair]:
    """Pictures whose file numbers follow each other, in different splits of a set."""
    numbered: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for index, picture in enumerate(pictures):
        # Roboflow appends `_jpg.rf.<32 hexadecimal digits>` to the name it was given.
        stem = re.sub(r'_[a-z]+\.rf\.\w+$', '', Path(picture.path).stem)
        match = re.fullmatch(r'(.*?)(\d+)(\D*)', stem, re.DOTALL)
        if match:
            key = (picture.dataset, match[1], match[3])
            numbered.setdefault(key, []).append((int(match[2]), index))
    for members in numbered.values():
        members.sort()
        for (number, a), (following, b) in pairwise(members):
            if following - number <= 1 and pictures[a].split != pictures[b].split:
                straight, mirrored = (
                    int(np.unpackbits(table[a, 0] ^ other).sum()) for other in table[b]
                )
                bits = min(straight, mirrored)
                yield Pair(pictures[a], pictures[b], bits, mirrored < straight)


def _pair_json(pair: Pair) -> dict[str, Any]:
    return {
        'bits': pair.bits,
        'mirrored': pair.mirrored,
        'relation': pair.relation,
        'a': [pair.a.dataset, pair.a.split, pair.a.path],
        'b': [pair.b.dataset, pair.b.split, pair.b.path],
    }


def name_sets(paths: Iterable[Path]) -> dict[str, Path]:
    """Data sets by the name of their folder; a repeated name gets a number."""
    named: dict[str, Path] = {}
    for path in paths:
        folder = find_data_yaml(path).resolve().parent.name
        count = sum(name == folder or name.startswith(f'{folder}-') for name in named)
        named[f'{folder}-{count + 1}' if folder in named else folder] = path
    return named


def print_leaks(report: LeakReport) -> None:
    """Print what was found, and what training leaves out for it."""
    for name, splits in report.pictures.items():
        print(f'{name}: {", ".join(f"{count} {split}" for split, count in splits.items())}')
    for picture in report.unreadable:
        print(f'  cannot be decoded: {picture}')
    print(f'\npairs that differ by at most {report.bits} of {BITS} bits:')
    for (a, b), count in sorted(report.counts.items()):
        print(f'  {count:8} {"within " + a if a == b else a + " and " + b}')
    if not report.counts:
        print('         none')
    print('\nclosest pair (bits):')
    for relation in RELATIONS:
        pairs = [pair for pair in report.closest if pair.relation == relation]
        if pairs:
            nearest = min(pairs, key=lambda pair: pair.bits)
            print(f'  {nearest.bits:8} {relation}: {nearest.a} and {nearest.b}')
    if report.consecutive:
        distances = sorted(pair.bits for pair in report.consecutive)
        print(
            f'\n{len(distances)} times the next file number lies in another split '
            f'({distances[0]} to {distances[-1]} bits apart): frames of one drive on both sides.'
        )
    print('\nleft out of training:')
    for name, paths in report.exclusions.items():
        print(f'  {len(paths):8} of {report.pictures[name].get("train", 0)} of {name}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('data', type=Path, nargs='+', help='data sets: folders with data.yaml')
    parser.add_argument(
        '--bits',
        type=int,
        default=Leaks().bits,
        help=f'bits of {BITS} that may differ (default: {Leaks().bits})',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('leaks'),
        help='folder for leaks.json, leaks.png and the kept hashes (default: leaks)',
    )
    parser.add_argument('--workers', type=int, help='threads (default: one per processor)')


def run(args: argparse.Namespace) -> int:
    """Find leaks, write them below --out. Status 2 when training would see judged pictures."""
    report = find_leaks(
        name_sets(args.data), args.bits, workers=args.workers, cache=args.out / 'hashes.json'
    )
    write_json(args.out / 'leaks.json', report.to_json(), indent=1)
    report.write_contact_sheet(args.out / 'leaks.png')
    print_leaks(report)
    print(f'\nall pairs: {args.out / "leaks.json"}; the closest: {args.out / "leaks.png"}')
    return 2 if any(report.exclusions.values()) else 0
