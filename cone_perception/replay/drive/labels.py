"""YOLO label files -> ground truth of a drive's pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from cone_perception.dataset import labels as label_files
from cone_perception.dataset import layout
from cone_perception.errors import SourceError, told_as
from cone_perception.files import read_yaml
from cone_perception.replay.drive.truth import PictureStamps
from cone_perception.types import Detections

NAMES_FILES = ('data.yaml', 'classes.txt', 'obj.names')
"""Who of them lies in the folder of the labels, or in one of the two above it, names the classes:
Ultralytics' (`names`), and those of the labelling tools (a name per line)."""


def picture_name(bag: Path, camera: str, index: int) -> str:
    """Name that `bag to-dataset` gives a picture of a bag, without suffix."""
    return f'{re.sub("[^A-Za-z0-9_-]", "_", bag.resolve().stem)}_{camera}_{index:06d}'


def read_labels(
    folder: Path,
    bag: Path,
    stamps_ns: Mapping[str, Sequence[PictureStamps]],
    sizes_px: Mapping[str, tuple[int, int]],
    class_names: Sequence[str],
    problems: list[str],
) -> dict[tuple[str, int], Detections]:
    """(camera, stamp as sent) -> cones of each picture that has a label file.

    folder: of NAME.txt, each line `class x y width height` (middle and size of a box in fractions
    of the picture); where it has a folder of a camera's name, that camera's labels are in there.
    NAME is the stamp of a picture's header in nanoseconds, or what `bag to-dataset` calls it:
    pictures without a file are then not judged, and an empty file says that there is no cone. Or
    no name is either: then there must be as many files as pictures of the camera, and they belong
    together in the order of names and of recording.
    stamps_ns, sizes_px: camera -> stamps of each picture, (width, height) of all.
    class_names: of the model. The numbers in the files mean these, unless a data.yaml or
    classes.txt beside them says what they mean.
    Pictures that are sent with the stamp of another one are not judged; `problems` tells of them.
    Raises SourceError for what cannot be told, is no label, or is a class the model does not know.
    """
    if not folder.is_dir():
        raise SourceError(f'{folder} is no folder of labels (NAME.txt, YOLO format).')
    known: dict[tuple[str, int], Detections] = {}
    for camera, stamps in stamps_ns.items():
        inside = folder / camera if (folder / camera).is_dir() else folder
        names = read_class_names(inside)
        meaning = list(class_names) if names is None else names
        files = sorted(file for file in inside.glob('[!.]*.txt') if file.name not in NAMES_FILES)
        if not files and (len(stamps_ns) == 1 or inside != folder):
            raise SourceError(f'{inside} holds no label files (NAME.txt, YOLO format).')
        found = _match_by_name(files, bag, camera, stamps_ns)
        if found is None:
            if inside == folder and len(stamps_ns) > 1:
                raise SourceError(
                    f'{folder} has no folder {camera}: with several cameras each has one of its '
                    'name.'
                )
            found = _match(files, inside, camera, stamps)
        sent = Counter(one.sent_ns for one in stamps)
        by_stamp = {stamps[index].sent_ns: file for index, file in found.items()}
        chosen = {stamp: file for stamp, file in by_stamp.items() if sent[stamp] == 1}
        if not chosen:
            raise SourceError(
                f'{inside}: no label can be told to be of one picture of camera {camera}: none is '
                'of it, or its pictures have equal stamps (--stamps recorded gives each its own).'
            )
        if len(chosen) < len(stamps):
            problems.append(
                f'{len(stamps) - len(chosen)} of {len(stamps)} pictures of camera {camera} have no '
                f'label file of their own in {inside}: they are not judged'
            )
        for stamp_ns, file in chosen.items():
            known[camera, stamp_ns] = _read_cones(file, sizes_px[camera], meaning, class_names)
    return known


def _match_by_name(
    files: Sequence[Path], bag: Path, camera: str, stamps_ns: Mapping[str, Sequence[PictureStamps]]
) -> dict[int, Path] | None:
    """Index of the picture -> file, where they are called as `bag to-dataset` calls them."""
    start = picture_name(bag, '', 0).removesuffix('_000000')
    pattern = re.compile(rf'{re.escape(start)}(.+)_([0-9]{{6,}})')
    named: dict[tuple[str, int], Path] = {}
    others = []
    for file in files:
        found = pattern.fullmatch(file.stem)
        if found and found[1] not in stamps_ns:  # a camera that is left out
            continue
        if found and int(found[2]) < len(stamps_ns[found[1]]):
            named[found[1], int(found[2])] = file
        else:
            others.append(file)
    if named and others:
        raise SourceError(
            f'{next(iter(named.values()))} is called after a picture of {bag.name}, but '
            f'{others[0].name} is not: of which picture it is cannot be told.'
        )
    if not named:
        return None
    return {index: file for (name, index), file in named.items() if name == camera}


def _match(
    files: Sequence[Path], folder: Path, camera: str, stamps: Sequence[PictureStamps]
) -> dict[int, Path]:
    """Index of the picture -> file, by stamps or else by order; see `read_labels`."""
    index_of = {str(one.header_ns): index for index, one in enumerate(stamps) if one.header_ns}
    by_stamp = [file for file in files if file.stem in index_of]
    if by_stamp and len(by_stamp) < len(files):
        other = next(file for file in files if file not in by_stamp)
        raise SourceError(
            f'{folder}: {by_stamp[0].name} is the stamp of a picture of camera {camera}, but '
            f'{other.name} is not: labels belong to pictures either by stamp or by order.'
        )
    if by_stamp:
        alone = Counter(one.header_ns for one in stamps)
        return {index_of[file.stem]: file for file in files if alone[int(file.stem)] == 1}
    if len(files) != len(stamps):
        raise SourceError(
            f'{folder} has {len(files)} label files, none with the stamp of a picture of '
            f'camera {camera} as its name, and the bag has {len(stamps)} pictures: without '
            'stamps there must be one for each picture, in order.'
        )
    for before, after in pairwise(files):
        if _natural(before.stem) > _natural(after.stem):
            raise SourceError(
                f'{folder}: the order of the labels is not clear: by letters {before.name} is '
                f'before {after.name}, by numbers after it. Pad the numbers with zeros.'
            )
    return dict(enumerate(files))


def read_class_names(folder: Path) -> list[str] | None:
    """Names of the class numbers, by the file nearest to the labels; None without one.

    Raises SourceError when two files in the same folder say different things.
    """
    for place in (folder, *folder.absolute().parents[:2]):
        said = {file: _names_in(file) for name in NAMES_FILES if (file := place / name).is_file()}
        if not said:
            continue
        first, *others = said
        for other in others:
            if said[other] != said[first]:
                raise SourceError(
                    f'{first} and {other.name} name the classes differently: remove one of them.'
                )
        return said[first]
    return None


def _read_cones(
    file: Path, size_px: tuple[int, int], meaning: Sequence[str], class_names: Sequence[str]
) -> Detections:
    """Cones of one file, with score 1. meaning: name of each number in it.

    Raises SourceError with file and line of what is no label.
    """
    labels = label_files.read_labels(file, len(meaning))
    for fault in labels.refused:
        raise SourceError(f'{file}, line {fault.line}: {fault.message}')
    known = [class_names.index(name) if name in class_names else -1 for name in meaning]
    classes = np.array(known, np.int64)[labels.rows[:, 0].astype(np.int64)]
    for number in labels.rows[classes < 0, 0].astype(int)[:1]:
        raise SourceError(
            f'{file}: the model does not know the class {meaning[number]}; '
            f'it knows {", ".join(class_names)}.'
        )
    boxes = label_files.corners_px(labels.rows, *size_px)
    return Detections(boxes, np.ones(len(boxes), np.float32), classes)


def _names_in(file: Path) -> list[str]:
    with told_as(SourceError, f'{file} cannot be read', OSError, ValueError):
        if file.suffix == '.yaml':
            return list(layout.read_class_names(read_yaml(file, SourceError)))
        lines = file.read_text(encoding='utf-8').splitlines()
        return [line.strip() for line in lines if line.strip()]


def _natural(name: str) -> list[tuple[int, str]]:
    """Key that orders frame9 before frame10."""
    return [
        (int(part), '') if part.isdecimal() else (-1, part) for part in re.split(r'(\d+)', name)
    ]
