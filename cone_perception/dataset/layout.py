"""data.yaml -> the pictures of each split, found as Ultralytics finds them.

The rules are those of Ultralytics 8.4: `check_det_dataset` (folders), `get_img_files` (pictures)
and `img2label_paths` (labels). Where its reading depends on the working directory or on its own
settings, the folder of data.yaml is taken instead, and a problem says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cone_perception.classes import CLASS_NAMES, check_class_names
from cone_perception.errors import DataError
from cone_perception.files import read_text, read_yaml, write_whole

TO_LABEL = 'TO_LABEL.md'
"""Says of a data set that a person has yet to look at its labels, and that it has no val."""

SPLITS = ('train', 'val', 'test')
PICTURE_FORMATS = 'avif bmp dng heic heif jp2 jpeg jpg mpo png tif tiff webp'
PICTURE_SUFFIXES = frozenset(f'.{name}' for name in PICTURE_FORMATS.split())

MOST_FILES = 2_000_000
"""In one folder of pictures; a folder such as / has more."""

STRAY = (
    'is a label beside its picture, where nobody reads it: its cones would be background. '
    'Move it to the folder `labels` beside `images`.'
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong or worth knowing.

    file: relative to the data set where it lies inside. line: of a label file, from 1; 0: the
    whole file. kind: short and stable, for programs. fatal: a campaign does not start with it.
    """

    file: str
    line: int
    kind: str
    message: str
    fatal: bool

    def __str__(self) -> str:
        place = f'{self.file}:{self.line}' if self.line else self.file
        return f'{place}: {self.message} [{self.kind}]'


@dataclass(frozen=True, slots=True)
class Layout:
    """The content of a data.yaml.

    names: of the classes, in the data set's order. splits: train, val, test -> pictures, sorted;
    a split that data.yaml does not name is absent. ignored: other files in the pictures' folders.
    """

    data_yaml: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[Path, ...]]
    ignored: tuple[Path, ...]
    problems: tuple[Problem, ...]

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return self.data_yaml.parent

    def shorten(self, path: Path) -> str:
        """`path` relative to the data set's folder, or as it is outside of it."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


def find_data_yaml(path: Path) -> Path:
    """data.yaml of a data set given as a folder or the file. Raises DataError without one."""
    data_yaml = path / 'data.yaml' if path.is_dir() else path
    if not data_yaml.is_file() or data_yaml.suffix not in ('.yaml', '.yml'):
        raise DataError(
            f'{path} is no data set: there is no {data_yaml}. '
            'Give a folder with data.yaml, or fetch one: cone-training data fetch NAME'
        )
    return data_yaml.parent.resolve() / data_yaml.name  # as the splits' folders are resolved


def label_path(picture: Path) -> Path:
    """Label file of a picture: the last folder `images` becomes `labels`, the suffix .txt."""
    place = '/labels/'.join(str(picture).rsplit('/images/', 1))
    return Path(place.rsplit('.', 1)[0] + '.txt')


def stray_label(picture: Path) -> Path | None:
    """A label file that lies beside its picture, where nobody reads it."""
    beside = picture.with_suffix('.txt')
    return beside if beside != label_path(picture) and beside.is_file() else None


def read_layout(path: Path) -> Layout:
    """Read data.yaml and list the pictures of its splits. Nothing in it is executed or fetched.

    Raises DataError when `path` is no data set; whatever is wrong inside becomes a problem.
    """
    data_yaml = find_data_yaml(path)
    content = read_yaml(data_yaml, DataError)
    if not isinstance(content, dict):
        raise DataError(f'{data_yaml} holds no mapping: write lines such as `train: train/images`.')
    reader = _Reader(data_yaml, content)
    names, splits = reader.read_names(), reader.read_splits()
    ignored = tuple(sorted(reader.ignored))
    return Layout(data_yaml, names, splits, ignored, tuple(reader.problems))


def read_class_names(content: Any) -> tuple[str, ...]:
    """Class names in order, of the content of a data.yaml. Raises ValueError that says why not."""
    names = content.get('names') if isinstance(content, dict) else None
    if isinstance(names, dict) and names:
        try:
            by_index = {int(index): str(name) for index, name in names.items()}
        except (TypeError, ValueError):
            by_index = {}
        if sorted(by_index) != list(range(len(names))):
            raise ValueError(f'`names` is not numbered from 0 without gaps: {names}')
        names = [by_index[index] for index in range(len(by_index))]
    if not isinstance(names, list) or not names:
        raise ValueError('`names` is missing: list the classes in the order of the labels.')
    check_class_names(tuple(map(str, names)))
    return tuple(map(str, names))


def write_data_yaml(
    folder: Path, splits: Iterable[str], names: Sequence[str] = CLASS_NAMES
) -> Path:
    """Write FOLDER/data.yaml of a data set with these classes and SPLIT/images in it.

    It says no `path:`, so a copy of the folder is a data set of its own.
    """
    content: dict[str, object] = {split: f'{split}/images' for split in splits}
    content |= {'nc': len(names), 'names': list(names)}
    write_whole(folder / 'data.yaml', yaml.safe_dump(content, sort_keys=False))
    return folder / 'data.yaml'


def files_below(folder: Path) -> Iterator[Path]:
    """Files in a folder and those below it, through links, but through no folder into itself.

    Raises OSError; ValueError: there are more than MOST_FILES.
    """
    waiting, seen = [(folder, frozenset[tuple[int, int]]())], 0
    while waiting:
        here, above = waiting.pop()
        status = here.stat()
        if (status.st_dev, status.st_ino) in above:
            continue
        inside = above | {(status.st_dev, status.st_ino)}
        for entry in os.scandir(here):
            seen += 1
            if seen > MOST_FILES:
                raise ValueError(f'{folder} holds more than {MOST_FILES} files')
            if entry.is_dir():
                waiting.append((Path(entry.path), inside))
            else:
                yield Path(entry.path)


def _list_below(folder: Path, data_yaml: Path) -> list[Path]:
    """Files that Ultralytics finds in a split's folder. Raises OSError and ValueError."""
    if folder in data_yaml.parents[1:]:
        raise ValueError('the whole data set lies inside of it. Name the folder of the split')
    hidden = len(folder.parts)
    return [
        file
        for file in files_below(folder)
        if '.' in file.name and not any(part[0] == '.' for part in file.parts[hidden:])
    ]


def _read_list(path: Path) -> list[Path]:
    """Files that a text file lists. Raises OSError and ValueError."""
    lines = read_text(path, 1 << 28).strip().splitlines()
    if any('\0' in line for line in lines):
        raise ValueError('it is no list of pictures: a NUL is in it')
    return [Path(re.sub(r'^\./', lambda _: f'{path.parent}/', line)) for line in lines]


class _Reader:
    """Reads one data.yaml, keeping what is wrong with it."""

    def __init__(self, data_yaml: Path, content: Mapping[Any, Any]) -> None:
        self.data_yaml = data_yaml
        self.content = content
        self.problems: list[Problem] = []
        self.ignored: set[Path] = set()
        if 'download' in content:
            self._report('download-key', 'Ultralytics would execute `download:`. Remove the key.')

    def _report(self, kind: str, message: str, fatal: bool = True) -> None:
        self.problems.append(Problem(self.data_yaml.name, 0, kind, message, fatal))

    def read_names(self) -> tuple[str, ...]:
        """Class names in order; empty when they cannot be had."""
        try:
            names = read_class_names(self.content)
        except ValueError as error:
            self._report('names', str(error))
            return ()
        nc = self.content.get('nc', len(names))
        if str(nc) not in (str(len(names)), f'{len(names)}.0'):
            self._report('names', f'`nc` is {nc!r}, but `names` lists {len(names)} classes.')
        return names

    def read_splits(self) -> dict[str, tuple[Path, ...]]:
        """Pictures per split that data.yaml names."""
        base = self._base()
        splits: dict[str, tuple[Path, ...]] = {}
        content = {'val': self.content.get('validation'), **self.content}
        for split in SPLITS:
            value = content.get(split)
            if not value:
                if split == 'val' and (self.data_yaml.parent / TO_LABEL).is_file():
                    self._report(
                        'to-label',
                        f'is to be labelled and added to another data set, says {TO_LABEL}: there '
                        'is no `val:`, so Ultralytics does not train on it by itself.',
                        fatal=False,
                    )
                elif split != 'test':
                    self._report('no-split', f'`{split}:` is missing; Ultralytics needs it.')
                continue
            listed = isinstance(value, list)
            places = value if listed else [value]
            if not all(isinstance(place, str) for place in places):
                message = f'`{split}:` is neither a path nor a list of paths: {value!r}'
                self._report('split', message)
                continue
            pictures = [each for place in places for each in self._find(split, base, place, listed)]
            if not pictures:
                self._report('empty-split', f'`{split}:` ({value}) holds no picture.')
            splits[split] = tuple(sorted(pictures, key=str))
        return splits

    def _base(self) -> Path:
        """Folder that the splits' paths start from."""
        root, value = self.data_yaml.parent, str(self.content.get('path') or '')
        if not value:
            return root
        base = root / value
        if not base.is_dir():
            message = f'`path: {value}` does not exist. Remove the key, or give the right folder.'
            self._report('path', message)
        elif Path(value).is_absolute() and base.resolve() != root:
            places = [str(self.content[split]) for split in SPLITS if self.content.get(split)]
            copied = any((root / place.removeprefix('../')).exists() for place in places)
            own = f' {root} has its own, which nobody would read.' if copied else ''
            self._report(
                'path' if copied else 'absolute-path',
                f'`path:` says that pictures and labels lie in {base}.{own} '
                'Remove the key: paths then start from the folder of data.yaml.',
                fatal=copied,
            )
        if not Path(value).is_absolute():
            self._report(
                'relative-path',
                f'`path: {value}` is taken from the folder of data.yaml; Ultralytics would take it '
                'from the working directory. A campaign trains on a data.yaml of its own.',
                fatal=False,
            )
        return base

    def _find(self, split: str, base: Path, place: str, listed: bool) -> list[Path]:
        """Pictures of one entry: a folder, searched in depth, or a text file that lists them."""
        path = (base / place).resolve()
        # Roboflow writes ../train/images for a folder that lies beside data.yaml.
        beside = (base / place.removeprefix('../')).resolve()
        if path != beside and beside.exists():
            if path.exists():
                self._report(
                    'ambiguous-path',
                    f'`{split}: {place}` is {path} for Ultralytics, but {beside} exists too. '
                    f'Write {place.removeprefix("../")}, or move one of them away.',
                )
            elif listed:
                self._report(
                    'listed-path',
                    f'`{split}:` lists {place}, read as {beside}; Ultralytics forgives the `../` '
                    'outside of lists only. A campaign trains on a data.yaml of its own.',
                    fatal=False,
                )
            path = path if path.exists() else beside
        if not path.exists():
            self._report('no-folder', f'`{split}: {place}` does not exist: {path}')
            return []
        try:
            files = _list_below(path, self.data_yaml) if path.is_dir() else _read_list(path)
        except (OSError, ValueError) as error:
            self._report('split', f'`{split}: {place}` cannot be read: {error}')
            return []
        pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
        odd = {file for file in pictures if file.exists() and not file.is_file()}
        if odd:  # whoever opens a pipe waits for ever
            self._report('split', f'{min(odd)} is no ordinary file: remove it')
            pictures = [file for file in pictures if file not in odd]
        self.ignored |= {file for file in {*files} - {*pictures} if file.is_file()}
        return pictures
