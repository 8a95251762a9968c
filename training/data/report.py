"""A data set as verified: its counts and problems, their picture, and a set to train on."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.labels import LabelledPicture, label_text
from cone_perception.dataset.layout import Problem, write_data_yaml
from cone_perception.errors import DataError, told_as
from cone_perception.files import without_nan
from cone_perception.pictures.draw import CLASS_COLOURS, short_name
from cone_perception.types import Float32

HEIGHT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Counts of a split.

    pictures: as listed. background: without a box. dropped: what Ultralytics would leave out.
    boxes: per class of the project, faulty lines left out. height_px: quantiles
    (HEIGHT_QUANTILES) of the boxes' heights, in pixels of the picture; empty without boxes.
    """

    pictures: int
    background: int
    dropped: int
    boxes: Mapping[str, int]
    height_px: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DataReport:
    """Findings of `verify_dataset`.

    path: data.yaml. expected: pictures per split, as asked. names: classes as data.yaml has them.
    mapping: class number in the labels -> class number of the project. counts: per split.
    problems: fatal ones first. would_drop: pictures that Ultralytics would leave out.
    manifest_sha256: of the manifest beside the data, empty if there is none. pictures: per split;
    not part of the JSON.
    """

    path: Path
    expected: Mapping[str, int]
    names: tuple[str, ...]
    mapping: Mapping[int, int]
    counts: Mapping[str, SplitCounts]
    problems: tuple[Problem, ...]
    would_drop: tuple[Path, ...]
    manifest_sha256: str
    pictures: Mapping[str, tuple[LabelledPicture, ...]] = field(repr=False)

    @property
    def ok(self) -> bool:
        """No problem is fatal."""
        return not any(problem.fatal for problem in self.problems)

    @property
    def class_mapping(self) -> dict[str, str | None]:
        """Name in data.yaml -> name in the project; None: there is none."""
        return {
            name: CLASS_NAMES[self.mapping[index]] if index in self.mapping else None
            for index, name in enumerate(self.names)
        }

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON has it."""
        names = ('manifest_sha256', 'names', 'expected', 'counts', 'would_drop', 'problems')
        found = {name: getattr(self, name) for name in names}
        head = {'schema': 1, 'data': self.path, 'ok': self.ok, 'mapping': self.class_mapping}
        return without_nan(head | found)  # type: ignore[no-any-return]


def map_rows(rows: Float32, mapping: Mapping[int, int]) -> Float32:
    """(N, 5) rows with the project's class numbers; rows of classes without one are left out."""
    known: Float32 = rows[np.isin(rows[:, 0], list(mapping))]  # a copy: taken by a mask
    known[:, 0] = [mapping[int(class_id)] for class_id in known[:, 0]]
    return known


def box_heights_px(pictures: Iterable[LabelledPicture]) -> Float32:
    """(N,) heights of all boxes, in pixels of their pictures."""
    heights = [picture.labels.rows[:, 4] * picture.size_px[1] for picture in pictures]
    return np.concatenate([np.zeros(0, np.float32), *heights]).astype(np.float32)


def count_split(pictures: Iterable[LabelledPicture], mapping: Mapping[int, int]) -> SplitCounts:
    entries = list(pictures)
    rows = [map_rows(picture.labels.rows, mapping)[:, 0] for picture in entries]
    classes = np.concatenate([np.zeros(0), *rows]).astype(int)
    boxes = np.bincount(classes, minlength=len(CLASS_NAMES)).tolist()
    heights = box_heights_px(entries)
    return SplitCounts(
        pictures=len(entries),
        background=sum(not len(picture.labels.rows) for picture in entries),
        dropped=sum(picture.dropped for picture in entries),
        boxes=dict(zip(CLASS_NAMES, boxes, strict=True)),
        height_px=tuple(np.quantile(heights, HEIGHT_QUANTILES).round(2).tolist())
        if len(heights)
        else (),
    )


def write_distributions(report: DataReport, path: Path) -> None:
    """Draw the report's counts and sizes into a PNG file, one line per split."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    splits = [split for split, pictures in report.pictures.items() if pictures]
    figure = Figure(figsize=(15, 1 + 2.8 * max(1, len(splits))), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(report.path.parent.name)
    axes = figure.subplots(max(1, len(splits)), 4, squeeze=False)
    names = [short_name(name) for name in CLASS_NAMES]
    colours = [tuple(value / 255 for value in CLASS_COLOURS[name][::-1]) for name in CLASS_NAMES]
    edges_px = np.geomspace(2, 400, 40)
    for line, split in zip(axes, splits, strict=False):
        pictures, counts = report.pictures[split], report.counts[split]
        bars = line[0].barh(names, [counts.boxes[name] for name in CLASS_NAMES], color=colours)
        line[0].bar_label(bars, padding=2, fontsize=8)
        line[0].margins(x=0.2)
        line[0].invert_yaxis()
        line[0].set(title=f'{split}: {counts.pictures} pictures', xlabel='boxes')
        heights_px = box_heights_px(pictures)
        line[1].hist(heights_px.clip(edges_px[0], edges_px[-1]), bins=edges_px, color='0.4')
        line[1].set(title='box heights', xlabel='pixels of the picture', xscale='log')
        boxes = [len(picture.labels.rows) for picture in pictures]
        line[2].hist(boxes, bins=np.arange(max(boxes) + 2) - 0.5, color='0.4')
        line[2].set(title='boxes per picture', xlabel='boxes')
        sizes = np.array([picture.size_px for picture in pictures])
        found, number = np.unique(sizes, axis=0, return_counts=True)
        line[3].scatter(found[:, 0], found[:, 1], s=10 + 200 * number / number.sum(), alpha=0.5)
        line[3].set(title='picture sizes', xlabel='width, px', ylabel='height, px')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def write_normalised(report: DataReport, folder: Path, exclude: Collection[Path] = ()) -> Path:
    """Write FOLDER/{train,val,test}/{images,labels} and data.yaml; the original stays untouched.

    Pictures are links, so that nothing is copied, and a picture that Ultralytics would rewrite is
    replaced here and not there. Labels are written anew: the project's class numbers, polygons as
    boxes, no repeated rows. Left out are the pictures named in `exclude` (as the report has them)
    and those of the training split whose file or label cannot be read. What was there of an
    earlier call is replaced; data.yaml is written last.

    Returns data.yaml. Raises DataError when the report has a fatal problem, or FOLDER cannot be
    written.
    """
    if not report.ok:
        fatal = [problem for problem in report.problems if problem.fatal]
        raise DataError(
            f'{report.path} has {len(fatal)} fatal problems, the first: {fatal[0]}. '
            f'See all: cone-training data verify {report.path.parent}'
        )
    folder = folder.absolute()
    if folder == report.path.parent.absolute():
        raise DataError(f'{folder} is the original data set: give another folder')
    with told_as(DataError, f'{folder} cannot be written', advice='Is there space left?'):
        (folder / 'data.yaml').unlink(missing_ok=True)
        for split, pictures in report.pictures.items():
            shutil.rmtree(folder / split, ignore_errors=True)
            kept = [entry for entry in pictures if entry.usable and entry.path not in exclude]
            _write_split(report, folder / split, kept)
        return write_data_yaml(folder, report.pictures)


def _write_split(report: DataReport, split: Path, pictures: Collection[LabelledPicture]) -> None:
    """Links and labels; pictures of several folders keep apart, in numbered folders."""
    parents = sorted({entry.path.parent for entry in pictures})
    for number, parent in enumerate(parents):
        below = str(number) if len(parents) > 1 else ''
        images, labels = split / 'images' / below, split / 'labels' / below
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for entry in pictures:
            if entry.path.parent != parent:
                continue
            (images / entry.path.name).symlink_to(entry.path.absolute())
            if not entry.labels.missing:
                text = label_text(map_rows(entry.labels.rows, report.mapping), exact=True)
                (labels / f'{entry.path.stem}.txt').write_text(text, encoding='ascii')
