"""The list of a data set's files with their hashes: written once, checked from then on."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path

from cone_perception.dataset.labels import map_in_threads, read_labels
from cone_perception.dataset.layout import Layout, files_below, label_path, read_layout
from cone_perception.errors import DataError, told_as
from cone_perception.files import parse_json, read_text, to_json, write_whole
from cone_perception.model_card import file_sha256

MANIFEST = 'manifest.jsonl'
"""Beside data.yaml: a line about the whole, then one per file."""
IGNORED_SUFFIXES = ('.cache', '.npy')
"""What Ultralytics writes into a data set."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file.

    path: relative to data.yaml's folder, with `/`. size: bytes. mtime_ns: when it was written, for
    quick checks. split: empty for what belongs to none. boxes: per class name, of a label file.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    split: str
    boxes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a data set, sorted by path."""

    files: tuple[ManifestFile, ...]

    @property
    def sha256(self) -> str:
        """Hash of paths, sizes and contents: equal for equal data, on any machine, at any time."""
        text = ''.join(f'{file.sha256} {file.size} {file.path}\n' for file in self.files)
        return hashlib.sha256(text.encode()).hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', type=Path, help='data set: a folder with data.yaml')
    parser.add_argument('--check', action='store_true', help='compare, do not write')
    full = 'with --check: hash every file, not only changed times'
    parser.add_argument('--full', action='store_true', help=full)


def run(args: argparse.Namespace) -> int:
    """Write or check a manifest; status 1 when the data differs from it."""
    if not args.check:
        manifest = write_manifest(args.path)
        print(f'{len(manifest.files)} files, manifest {manifest.sha256}')
        return 0
    differences = check_manifest(args.path, full=args.full)
    for path, kind in differences.items():
        print(f'{kind}: {path}')
    print(f'{"not as" if differences else "as"} the manifest says: {args.path}')
    return 1 if differences else 0


def write_manifest(path: Path) -> Manifest:
    """Hash every file of a data set into manifest.jsonl beside data.yaml. Raises DataError."""
    layout = read_layout(path)
    split_of = {
        name: split
        for split, pictures in layout.splits.items()
        for name in _relative(layout, [*pictures, *map(label_path, pictures)])
    }

    class_names = dict(enumerate(layout.names))

    def describe(name: str) -> ManifestFile:
        file = layout.root / name
        stat = file.stat()
        split = split_of.get(name, '')
        boxes = {}
        if split and name.endswith('.txt'):
            rows = read_labels(file, max(1, len(layout.names))).rows
            counts = sorted(Counter(rows[:, 0].astype(int).tolist()).items())
            boxes = {class_names.get(number, str(number)): count for number, count in counts}
        return ManifestFile(name, stat.st_size, stat.st_mtime_ns, file_sha256(file), split, boxes)

    with told_as(DataError, f'the manifest of {layout.root} cannot be written'):
        manifest = Manifest(tuple(map_in_threads(describe, _list_files(layout), 'hash', 'file')))
        head = {'schema': 1, 'sha256': manifest.sha256, 'counts': _count(manifest)}
        lines = ''.join(f'{to_json(entry)}\n' for entry in (head, *manifest.files))
        write_whole(layout.root / MANIFEST, lines)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Manifest of a data set (folder or data.yaml). Raises DataError: there is none, or edited."""
    folder = path if path.is_dir() else path.parent
    advice = f'Write it when the data is as it should be: cone-training data manifest {folder}'
    failures = (OSError, ValueError, KeyError, TypeError)
    with told_as(DataError, f'{folder / MANIFEST} cannot be read', *failures, advice=advice):
        head, *lines = read_text(folder / MANIFEST, 1 << 30).splitlines()
        manifest = Manifest(tuple(ManifestFile(**parse_json(line)) for line in lines))
        said = parse_json(head)['sha256']
    if manifest.sha256 != said:
        raise DataError(
            f'{folder / MANIFEST} is damaged or was edited: its lines do not give the hash in its '
            f'first line. Write it again: cone-training data manifest {folder}'
        )
    return manifest


def check_manifest(path: Path, *, full: bool = False) -> dict[str, str]:
    """Differences of a data set from its manifest: path -> `missing`, `extra` or `changed`.

    Quick: a file of the same size and time is taken as unchanged; of the same size and another
    time it is hashed, so that a copy of a data set passes. full: every file is hashed.
    Raises DataError when there is no manifest, or `path` is no data set.
    """
    layout = read_layout(path)
    there = {*_list_files(layout)}
    listed = {file.path: file for file in read_manifest(path).files}

    def differs(name: str) -> bool:
        file, before = layout.root / name, listed[name]
        stat = file.stat()
        if stat.st_size != before.size:
            return True
        if stat.st_mtime_ns == before.mtime_ns and not full:
            return False
        return file_sha256(file) != before.sha256

    common = sorted(there & {*listed})
    changed = compress(common, map_in_threads(differs, common, 'manifest', 'file'))
    return {
        **dict.fromkeys(sorted({*listed} - there), 'missing'),
        **dict.fromkeys(sorted(there - {*listed}), 'extra'),
        **dict.fromkeys(changed, 'changed'),
    }


def _relative(layout: Layout, files: Iterable[Path]) -> set[str]:
    return {Path(os.path.relpath(file, layout.root)).as_posix() for file in files}


def _list_files(layout: Layout) -> list[str]:
    """Every file below the data set's folder, and what its splits take from elsewhere."""
    found = {
        file
        for file in files_below(layout.root)
        if not file.name.startswith('.') and not file.name.endswith(IGNORED_SUFFIXES)
    }
    found.discard(layout.root / MANIFEST)
    for picture in chain.from_iterable(layout.splits.values()):
        found |= {picture, label_path(picture)}
    return sorted(_relative(layout, filter(Path.is_file, found)))


def _count(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Per split: pictures, labels, and boxes per class."""
    totals: dict[str, Counter[str]] = {}
    for file in manifest.files:
        if file.split:
            total = totals.setdefault(file.split, Counter())
            total['labels' if file.path.endswith('.txt') else 'pictures'] += 1
            total.update(file.boxes)
    return {split: dict(total) for split, total in totals.items()}
