"""One split of a labelled data set, every picture and every cone of it, or an error that names it.

Ultralytics leaves a picture out of a validation for one bad line of its label file, with a line in
the log only. Here nothing is left out: what cannot be read is refused by name.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cone_perception.classes import CLASS_NAMES, map_classes
from cone_perception.dataset.labels import corners_px, read_pictures
from cone_perception.dataset.layout import STRAY, Layout, label_path, read_layout, stray_label
from cone_perception.errors import DataError
from cone_perception.model_card import file_sha256
from cone_perception.types import Float32, Int64


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSplit:
    """Pictures and cones that a model is judged on.

    class_names: the project's five where the data set has no others, else the data set's own.
    paths, names: of the pictures, sorted; names are relative to the folder that holds them all.
    size_px: (I, 2) int64, width and height. rows: per picture (M, 5) float32: class, an index into
    class_names, then centre x, centre y, width and height as fractions of the picture.
    sha256: of all pictures and labels. notes: what a reader of the figures should know.
    """

    data: Path
    split: str
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    size_px: Int64
    rows: tuple[Float32, ...]
    sha256: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def truth_class(self, index: int) -> Int64:
        """(M,) int64: classes of the cones in a picture."""
        return self.rows[index][:, 0].astype(np.int64)

    def truth_box_px(self, index: int) -> Float32:
        """(M, 4) float32: their boxes in source pixels."""
        width_px, height_px = self.size_px[index].tolist()
        return corners_px(self.rows[index], width_px, height_px)

    def classes_there(self) -> list[int]:
        """Classes that have a cone, ascending."""
        return sorted({int(row[0]) for rows in self.rows for row in rows})


def read_split(data: Path, split: str, workers: int | None = None) -> LabelledSplit:
    """Read a split of a YOLO data set. Raises DataError that names what cannot be judged."""
    layout = read_layout(data)
    named = named_pictures(layout, split)
    class_names, class_of = class_indices(layout)
    refused: list[str] = []
    notes = [p.message for p in layout.problems if p.kind == 'absolute-path']
    digest = hashlib.sha256()
    pictures = read_pictures(tuple(named.values()), len(layout.names), 'read', workers)
    for name, each in zip(named, pictures, strict=True):
        for fault in each.faults:
            if fault.kind in ('unreadable-picture', 'undecodable'):
                refused.append(f'{each.path}: {fault.message}')
            elif fault.drops:
                notes.append(f'{name} {fault.message}; judged all the same')
        refused += [f'{each.label}:{fault.line}: {fault.message}' for fault in each.labels.refused]
        if each.labels.missing and (stray := stray_label(each.path)):
            refused.append(f'{stray}: {STRAY}')
        if each.labels.mixed:
            notes.append(f'the labels of {name} mix boxes with polygons; judged all the same')
        text = b'' if each.labels.missing else each.label.read_bytes()
        digest.update(f'{name}\0{file_sha256(each.path)}\0{len(text)}\0'.encode() + text)
    if refused:
        raise DataError(
            f'{len(refused)} of the files of {data} cannot be judged, and none is left out: '
            f'{_few(refused)}. Mend or remove them.'
        )
    digest.update('\0'.join(class_names).encode())
    return LabelledSplit(
        data=data,
        split=split,
        class_names=class_names,
        paths=tuple(named.values()),
        names=tuple(named),
        size_px=np.array([each.size_px for each in pictures], np.int64).reshape(-1, 2),
        rows=tuple(
            np.column_stack([class_of[rows[:, 0].astype(np.int64)], rows[:, 1:]])
            for rows in (each.labels.rows for each in pictures)
        ),
        sha256=digest.hexdigest(),
        notes=tuple(notes),
    )


def named_pictures(layout: Layout, split: str) -> dict[str, Path]:
    """Name in an evaluation -> file, of the pictures of a split, sorted.

    Raises DataError when there is none, when data.yaml is wrong about it, so that some would be
    missing, and when two share a label.
    """
    paths = layout.splits.get(split, ())
    wrong = [
        problem.message
        for problem in layout.problems
        if problem.fatal
        and (problem.kind in ('names', 'path') or problem.message.startswith(f'`{split}:'))
    ]
    if wrong and paths:
        raise DataError(f'{layout.data_yaml} is not clear about its pictures: {_few(wrong)}')
    if not paths:
        raise DataError(
            f'{layout.data_yaml} has no pictures for the split {split!r}, only for: '
            f'{", ".join(name for name, found in layout.splits.items() if found) or "none"}.'
        )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(f'{layout.data_yaml} lists pictures that are not there: {_few(missing)}.')
    shared = [str(label) for label, n in Counter(map(label_path, paths)).items() if n > 1]
    if shared:
        raise DataError(
            f'several pictures share a label file: {_few(shared)}. Give each a name of its own.'
        )
    root = shared_folder(paths)
    return {path.relative_to(root).as_posix(): path for path in sorted(paths, key=str)}


def class_indices(layout: Layout) -> tuple[tuple[str, ...], Float32]:
    """Class names of an evaluation; (classes,) of the data set: the index into them of each.

    Names are the project's wherever its table of aliases knows them.
    """
    if not layout.names:
        reasons = ' '.join(p.message for p in layout.problems if p.kind == 'names')
        raise DataError(f'{layout.data_yaml} does not say which classes it has. {reasons}')
    names = canonical_names(layout.names)
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(
            f'{layout.data_yaml} has several classes that are all {", ".join(twice)}: '
            f'{", ".join(layout.names)}. Rename them.'
        )
    class_names = CLASS_NAMES if set(names) <= set(CLASS_NAMES) else names
    return class_names, np.array([class_names.index(name) for name in names], np.float32)


def canonical_names(names: Sequence[str]) -> tuple[str, ...]:
    """The project's name of each class that its table of aliases knows, else the name itself."""
    known = map_classes(names)
    return tuple(CLASS_NAMES[known[i]] if i in known else name for i, name in enumerate(names))


def shared_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def _few(entries: Sequence[str]) -> str:
    more = f' and {len(entries) - 5} more' if len(entries) > 5 else ''
    return '; '.join(entries[:5]) + more
