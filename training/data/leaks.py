"""Near-duplicates between and within data sets, and what training has to leave out for them.

data sets -> fingerprints -> pairs of like pictures -> pictures to exclude

A test or validation split is never touched: what is like one of its pictures leaves the training
splits, of the same set and of all others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cone_perception.dataset.layout import find_data_yaml, read_layout
from cone_perception.errors import DataError, OutputError, SettingsError, told_as
from cone_perception.files import write_json, write_whole
from cone_perception.images import read_picture
from cone_perception.pictures.draw import draw_caption, encode_picture
from training.data.like_pictures import (
    BIN,
    BITS,
    RELATIONS,
    LikeSearch,
    PicturePair,
    SetPicture,
    find_consecutive,
    hash_pictures,
)
from training.recipe.recipe import Leaks

TILE_PX = 300, 200


@dataclass(frozen=True, slots=True)
class LeakReport:
    """The findings of `find_leaks`.

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
    pairs: tuple[PicturePair, ...]
    counts: Mapping[tuple[str, str], int]
    exclusions: Mapping[str, tuple[str, ...]]
    closest: tuple[PicturePair, ...]
    nearest: Mapping[str, tuple[int, ...]]
    consecutive: tuple[PicturePair, ...]
    unreadable: tuple[SetPicture, ...]

    def excluded(self, dataset: str) -> set[Path]:
        """Files that training on this set leaves out, as `read_layout` lists them."""
        return {self.roots[dataset] / path for path in self.exclusions.get(dataset, ())}

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs, as `write_json` takes it."""
        return {
            'bits': self.bits,
            'sets': {
                name: {'path': root, 'pictures': self.pictures[name]}
                for name, root in self.roots.items()
            },
            'counts': [[*places, count] for places, count in self.counts.items()],
            'listed': len(self.pairs),
            'exclusions': self.exclusions,
            'nearest': {'bin_bits': BIN, **self.nearest},
            'unreadable': [str(picture) for picture in self.unreadable],
            **{name: getattr(self, name) for name in ('consecutive', 'closest', 'pairs')},
        }

    def write_contact_sheet(self, path: Path) -> None:
        """Write a PNG of the closest pairs, those between sets first. Raises OutputError."""
        tiles = []
        for pair in self.closest:
            shown = [read_picture(self.roots[end.dataset] / end.path) for end in (pair.a, pair.b)]
            small = [cv2.resize(bgr, TILE_PX, interpolation=cv2.INTER_AREA) for bgr in shown]
            tile = np.asarray(np.hstack(small), np.uint8)
            mirrored = ' mirrored' if pair.mirrored else ''
            alike = 'ALIKE' if pair.bits <= self.bits else 'not alike'
            about = f'{pair.bits} bits{mirrored}: {alike}, {pair.relation}'
            for row, text in enumerate((about, str(pair.a), str(pair.b))):
                draw_caption(tile[16 * row :], text[:88])
            tiles.append(tile)
        while not tiles or len(tiles) % 3:
            tiles.append(np.zeros((TILE_PX[1], 2 * TILE_PX[0], 3), np.uint8))
        rows = [np.hstack(tiles[start : start + 3]) for start in range(0, len(tiles), 3)]
        with told_as(OutputError, f'{path} cannot be written'):
            write_whole(path, encode_picture('.png', np.vstack(rows)))


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
    seen: dict[Path, str] = {}
    for name, layout in layouts.items():
        if (twin := seen.setdefault(layout.data_yaml.resolve(), name)) != name:
            raise DataError(
                f'{name} and {twin} are the same data set, {layout.data_yaml}: every picture '
                'would leak. Give it once.'
            )
    listed = [
        (SetPicture(name, split, layout.shorten(path)), path)
        for name, layout in layouts.items()
        for split, paths in layout.splits.items()
        for path in paths
    ]
    hashes = hash_pictures([path for _, path in listed], workers, cache)
    found = list(zip((picture for picture, _ in listed), hashes, strict=True))
    pictures = [picture for picture, bits_ in found if len(bits_)]
    table = np.concatenate([np.zeros((0, 32), np.uint8), *hashes]).reshape(-1, 2, 32)
    search = LikeSearch(pictures, table, bits)
    return LeakReport(
        bits=bits,
        roots={name: layout.root for name, layout in layouts.items()},
        pictures={
            name: {split: len(paths) for split, paths in layout.splits.items()}
            for name, layout in layouts.items()
        },
        pairs=search.pairs(),
        counts=dict(search.counts),
        exclusions={name: search.exclusions(name) for name in layouts},
        closest=search.closest(),
        nearest=search.histograms(),
        consecutive=tuple(find_consecutive(pictures, table)),
        unreadable=tuple(picture for picture, bits_ in found if not len(bits_)),
    )


def name_sets(paths: Iterable[Path]) -> dict[str, Path]:
    """Data sets by the name of their folder; a repeated name gets a number."""
    named: dict[str, Path] = {}
    for path in paths:
        folder = find_data_yaml(path).resolve().parent.name
        count = sum(name == folder or name.startswith(f'{folder}-') for name in named)
        named[f'{folder}-{count + 1}' if folder in named else folder] = path
    return named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('data', type=Path, nargs='+', help='data sets: folders with data.yaml')
    bits = f'bits of {BITS} that may differ (default: {Leaks().bits})'
    parser.add_argument('--bits', type=int, default=Leaks().bits, help=bits)
    out = 'folder for leaks.json, leaks.png and the kept hashes (default: leaks)'
    parser.add_argument('--out', type=Path, default=Path('leaks'), help=out)
    parser.add_argument('--workers', type=int, help='threads (default: one per processor)')


def run(args: argparse.Namespace) -> int:
    """Find leaks, print and write them. Status 2 when training would see judged pictures."""
    report = find_leaks(
        name_sets(args.data), args.bits, workers=args.workers, cache=args.out / 'hashes.json'
    )
    write_json(args.out / 'leaks.json', report.to_json(), indent=1)
    report.write_contact_sheet(args.out / 'leaks.png')
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
    print(f'\nall pairs: {args.out / "leaks.json"}; the closest: {args.out / "leaks.png"}')
    return 2 if any(report.exclusions.values()) else 0
