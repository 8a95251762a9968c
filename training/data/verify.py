"""A data set verified: every label line and every picture, before days of training rest on them."""

from __future__ import annotations

import argparse
import filecmp
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from cone_perception.arguments import text_table
from cone_perception.classes import CLASS_NAMES, map_classes
from cone_perception.dataset.labels import LabelledPicture, read_pictures
from cone_perception.dataset.layout import (
    STRAY,
    Layout,
    Problem,
    label_path,
    read_layout,
    stray_label,
)
from cone_perception.errors import DataError, SettingsError
from cone_perception.files import write_json
from training.data.manifest import MANIFEST, check_manifest, read_manifest
from training.data.report import (
    DataReport,
    count_split,
    split_table,
    write_data_page,
    write_normalised,
)
from training.recipe.sources import SOURCES, parse_counts

DROPPED_SHARE = 0.01
"""A training split may lose this share of its pictures to faulty files; val and test none."""
SHOWN = 20
"""Problems of one kind that the command prints; the JSON file has all."""


def verify_dataset(
    path: Path, expected: Mapping[str, int], workers: int | None = None, *, full: bool = False
) -> DataReport:
    """Read every label line and decode every picture of a YOLO data set.

    path: folder or data.yaml. expected: pictures per split; a split that is not named is not
    counted. workers: threads; default: one per core. full: every file against the manifest's
    SHA-256, not only those whose size or time differ.
    Raises DataError when `path` is no data set; all that is wrong inside is a problem.
    """
    layout = read_layout(path)
    classes = len(layout.names) or len(CLASS_NAMES)
    pictures = {
        split: read_pictures(paths, classes, f'verify {layout.root.name} {split}', workers)
        for split, paths in layout.splits.items()
    }
    mapping = map_classes(layout.names)
    manifest_sha256, manifest_problems = _check_manifest(layout, full)
    found = {split: len(entries) for split, entries in pictures.items()}
    miscounts = [
        f'{split} holds {found.get(split, 0)} pictures, expected were {wanted}'
        for split, wanted in expected.items()
        if found.get(split, 0) != wanted
    ]
    problems = [
        *layout.problems,
        *(Problem(layout.data_yaml.name, 0, 'count', text, True) for text in miscounts),
        *_find_class_problems(layout, mapping, pictures),
        *_find_picture_problems(layout, pictures),
        *_find_double_names(layout),
        *_find_strays(layout),
        *manifest_problems,
    ]
    return DataReport(
        path=layout.data_yaml,
        expected=dict(expected),
        names=layout.names,
        mapping=mapping,
        counts={split: count_split(entries, mapping) for split, entries in pictures.items()},
        problems=tuple(sorted(problems, key=lambda problem: not problem.fatal)),
        would_drop=tuple(p.path for entries in pictures.values() for p in entries if p.dropped),
        manifest_sha256=manifest_sha256,
        pictures=pictures,
    )


def _find_class_problems(
    layout: Layout, mapping: Mapping[int, int], pictures: Mapping[str, Iterable[LabelledPicture]]
) -> Iterator[Problem]:
    if not layout.names:
        return  # said by the layout
    file = layout.data_yaml.name
    rows = [picture.labels.rows[:, 0] for split in pictures.values() for picture in split]
    used = set(np.unique(np.concatenate([np.zeros(0), *rows])).astype(int).tolist())
    for index, name in enumerate(layout.names):
        if index not in mapping:
            boxes = 'which labels use' if index in used else 'which no label uses'
            message = (
                f'class {index} is {name!r}, {boxes}; the project has {", ".join(CLASS_NAMES)}. '
                'Rename it, or add its words to CLASS_WORDS in cone_perception/classes.py.'
            )
            yield Problem(file, 0, 'class-name', message, index in used)
    for target in sorted(set(mapping.values())):
        names = [layout.names[index] for index in mapping if mapping[index] == target]
        if len(names) > 1:
            message = f'{", ".join(map(repr, names))} all mean {CLASS_NAMES[target]}: keep one'
            yield Problem(file, 0, 'class-twice', message, True)
    if layout.names != CLASS_NAMES:
        pairs = ', '.join(
            f'{index} {layout.names[index]} -> {target} {CLASS_NAMES[target]}'
            for index, target in mapping.items()
        )
        message = (
            f'classes are not named, numbered or complete as in the project; mapped: {pairs}. '
            'Train on the normalised set, which has the numbers of the project.'
        )
        yield Problem(file, 0, 'class-mapping', message, False)


def _find_picture_problems(
    layout: Layout, pictures: Mapping[str, Sequence[LabelledPicture]]
) -> Iterator[Problem]:
    """Problems of whole splits and of single files."""
    for split, entries in pictures.items():
        lost = sum(not picture.usable for picture in entries)
        if split == 'train' and lost > DROPPED_SHARE * len(entries):
            message = (
                f'{lost} of {len(entries)} training pictures cannot be used, more than '
                f'{DROPPED_SHARE:.0%}. Mend or remove the files named below.'
            )
            yield Problem(layout.data_yaml.name, 0, 'dropped', message, True)
        if entries and all(picture.labels.missing for picture in entries):
            looked = layout.shorten(entries[0].label)
            message = f'{split} has no label file at all: looked for {looked} and its like'
            yield Problem(layout.data_yaml.name, 0, 'no-labels', message, True)
        for picture in entries:
            faults = [(picture.path, fault) for fault in picture.faults]
            for path, fault in [*faults, *((picture.label, f) for f in picture.labels.faults)]:
                # A picture with boxes and polygons is dropped as it is, but not once normalised.
                costs = fault.drops and split != 'train' and fault.kind != 'mixed-rows'
                fatal = costs or fault.kind == 'undecodable'
                name = layout.shorten(path)
                yield Problem(name, fault.line, fault.kind, fault.message, fatal)
            if picture.labels.missing and (stray := stray_label(picture.path)):
                yield Problem(layout.shorten(stray), 0, 'stray-label', STRAY, True)
            elif picture.labels.missing:
                message = 'has no label file: trained on as background'
                yield Problem(layout.shorten(picture.path), 0, 'no-label', message, False)


def _find_double_names(layout: Layout) -> Iterator[Problem]:
    """Names that two pictures share, within a split and across splits."""
    places: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for split, paths in layout.splits.items():
        for path in paths:
            places[path.stem].append((split, path))
    for found in places.values():
        for (other_split, other), (split, path) in combinations(found, 2):
            twin = layout.shorten(other)
            kind, message, fatal = 'double-name', f'has the name of {twin}, in {other_split}', False
            if path == other and split == other_split:
                kind, message, fatal = 'listed-twice', f'is listed twice in {split}', True
            elif path == other:
                message = f'is in {other_split} and in {split}: figures on it are worth nothing'
                kind, fatal = 'in-two-splits', True
            elif label_path(path) == label_path(other):
                kind, message, fatal = 'shared-label', f'has the same label file as {twin}', True
            elif split == other_split:
                message = f'has the name of {twin}: results per picture go by the name'
                fatal = split != 'train'
            elif filecmp.cmp(path, other, shallow=False):
                message = f'is the same picture as {twin}, in {other_split}: see the leak check'
                kind = 'same-picture'
            yield Problem(layout.shorten(path), 0, kind, message, fatal)


def _find_strays(layout: Layout) -> Iterator[Problem]:
    """Labels without a picture, and files that are no pictures."""
    pictures = list(chain.from_iterable(layout.splits.values()))
    labels = {label_path(path) for path in pictures}
    named = {stray_label(path) for path in pictures}
    for folder in sorted({label.parent for label in labels}):
        for stray in sorted(set(folder.glob('*.txt')) - labels):
            yield Problem(layout.shorten(stray), 0, 'no-picture', 'has no picture', False)
    for path in layout.ignored:
        if path not in labels | named and path.suffix not in ('.cache', '.npy'):
            message = 'lies among the pictures, but is none that can be trained on'
            yield Problem(layout.shorten(path), 0, 'ignored-file', message, False)


def _check_manifest(layout: Layout, full: bool) -> tuple[str, list[Problem]]:
    """Hash of the manifest, if there is one, and differences: fatal in what is trained on only."""
    if not (layout.root / MANIFEST).exists():
        return '', []
    try:
        manifest = read_manifest(layout.root)
        differences = check_manifest(layout.root, full=full)
    except DataError as error:
        return '', [Problem(MANIFEST, 0, 'manifest', str(error), True)]
    counts = {file.path for file in manifest.files if file.split} | {layout.data_yaml.name}
    for path in chain.from_iterable(layout.splits.values()):
        counts |= {layout.shorten(path), layout.shorten(label_path(path))}
    return manifest.sha256, [
        Problem(name, 0, f'manifest-{kind}', f'is {kind}, says {MANIFEST}', name in counts)
        for name, kind in differences.items()
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', type=Path, help='data set: a folder with data.yaml')
    known = f'(default: known by the name of the folder: {", ".join(SOURCES)})'
    expect = f'how many pictures there should be {known}'
    parser.add_argument('--expect', nargs='+', default=[], metavar='SPLIT=PICTURES', help=expect)
    parser.add_argument('--json', type=Path, help='write the report here')
    plot = 'write a page with the distributions here (.html)'
    parser.add_argument('--plot', type=Path, help=plot)
    normalise = 'write a set that can be trained on here'
    parser.add_argument('--normalise', type=Path, metavar='FOLDER', help=normalise)
    parser.add_argument('--full', action='store_true', help='hash every file of the manifest')
    parser.add_argument('--strict', action='store_true', help='status 1 for notes too')
    parser.add_argument('--workers', type=int, help='threads (default: one per core)')


def run(args: argparse.Namespace) -> int:
    """Verify, print, write what was asked for; status 1 when there is a fatal problem."""
    if args.plot and args.plot.suffix != '.html':
        raise SettingsError(f'--plot {args.plot}: it is a page now, so name it .html.')
    expected = parse_counts(args.expect)
    folder = args.path if args.path.is_dir() else args.path.parent
    if not expected and folder.absolute().name in SOURCES:
        expected = dict(SOURCES[folder.absolute().name].images)
    report = verify_dataset(args.path, expected, args.workers, full=args.full)
    print(f'{report.path}  manifest {report.manifest_sha256[:12] or "none"}')
    rows = split_table(report.to_json()['counts'], report.expected)
    print('\n'.join(f'  {line}' for line in text_table(rows, words=[0])))
    by_kind: dict[tuple[bool, str], list[Problem]] = defaultdict(list)
    for problem in report.problems:
        by_kind[not problem.fatal, problem.kind].append(problem)
    for (note, kind), problems in sorted(by_kind.items()):
        print(f'\n{"note" if note else "FATAL"} {kind}: {len(problems)}')
        for problem in problems[:SHOWN]:
            print(f'  {problem}')
        if len(problems) > SHOWN:
            print(f'  ... and {len(problems) - SHOWN} more')
    print('\n' + ('fine' if report.ok else 'not fit for training'))
    if args.json:
        write_json(args.json, report.to_json())
    if args.plot:
        write_data_page(args.plot, report)
    if args.normalise:
        print(f'normalised: {write_normalised(report, args.normalise)}')
    return 1 if not report.ok or (args.strict and report.problems) else 0
