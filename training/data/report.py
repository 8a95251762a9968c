"""A data set as verified: its counts and problems, their page, and a set to train on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.labels import LabelledPicture, label_text
from cone_perception.dataset.layout import Problem, write_data_yaml
from cone_perception.errors import DataError, told_as
from cone_perception.files import without_nan
from cone_perception.pages.blocks import Cell, Chart, Page, Piece, Section, Table
from cone_perception.pages.charts import SERIES_COLOURS, chart, dots, line
from cone_perception.pages.page import write_page
from cone_perception.pictures.draw import short_name
from cone_perception.types import Float32

HEIGHT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
HEIGHT_EDGES_PX = np.geomspace(2, 400, 40)
MOST_BOXES = 60
"""A picture with more counts as one with so many in the distribution."""


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Counts of a split.

    pictures: as listed. background: without a box. dropped: what Ultralytics would leave out.
    boxes: per class of the project, faulty lines left out. height_px: quantiles
    (HEIGHT_QUANTILES) of the boxes' heights, in pixels of the picture; empty without boxes.
    distributions: what `distribution_charts` draws: boxes per class and per bin of HEIGHT_EDGES_PX,
    pictures with 0, 1, 2 ... boxes, (width, height, pictures) of each picture size.
    """

    pictures: int
    background: int
    dropped: int
    boxes: Mapping[str, int]
    height_px: tuple[float, ...]
    distributions: Mapping[str, Sequence[Any]]


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


def count_split(pictures: Collection[LabelledPicture], mapping: Mapping[int, int]) -> SplitCounts:
    rows = [map_rows(picture.labels.rows, mapping)[:, 0] for picture in pictures]
    classes = np.concatenate([np.zeros(0), *rows]).astype(int)
    boxes = np.bincount(classes, minlength=len(CLASS_NAMES)).tolist()
    per_picture = np.array([len(picture.labels.rows) for picture in pictures], int)
    tall = [picture.labels.rows[:, 4] * picture.size_px[1] for picture in pictures]
    heights = np.concatenate([np.zeros(0, np.float32), *tall])
    shown_px = heights.clip(HEIGHT_EDGES_PX[0], HEIGHT_EDGES_PX[-1])
    shown_boxes = np.bincount(per_picture.clip(max=MOST_BOXES), minlength=MOST_BOXES + 1)
    sizes = Counter(picture.size_px for picture in pictures)
    return SplitCounts(
        pictures=len(pictures),
        background=int((per_picture == 0).sum()),
        dropped=sum(picture.dropped for picture in pictures),
        boxes=dict(zip(CLASS_NAMES, boxes, strict=True)),
        height_px=tuple(np.quantile(heights, HEIGHT_QUANTILES).round(2).tolist())
        if len(heights)
        else (),
        distributions={
            'classes': boxes,
            'box heights': np.histogram(shown_px, HEIGHT_EDGES_PX)[0].tolist(),
            'boxes per picture': shown_boxes.tolist(),
            'picture sizes': [[*size, number] for size, number in sizes.items()],
        },
    )


def split_table(
    counts: Mapping[str, Mapping[str, Any]], expected: Mapping[str, int], name: str = ''
) -> list[list[str]]:
    """A head and a row per split: for the terminal and for pages.

    counts: as DataReport.to_json has them. name: of the data set, where a page shows several.
    """
    head = ['', 'pictures', 'expected', 'background', 'dropped', *map(short_name, CLASS_NAMES)]
    rows = [[*head, 'median height']]
    for split, each in counts.items():
        wanted = f'{expected[split]:,}' if split in expected else '-'
        numbers = each['background'], each['dropped'], *each['boxes'].values()
        median = f'{each["height_px"][2]:.0f} px' if each['height_px'] else '-'
        told = f'{name} {split}'.strip(), f'{each["pictures"]:,}', wanted
        rows.append([*told, *(f'{number:,}' for number in numbers), median])
    return rows


def write_data_page(path: Path, report: DataReport) -> None:
    """Write the counts, their distributions and the problems as a page. Raises OutputError."""
    counts = report.to_json()['counts']
    head, *rows = split_table(counts, report.expected)
    problems: list[list[Piece]] = [
        [Cell(each.kind, tone='bad' if each.fatal else ''), str(each)] for each in report.problems
    ]
    page = Page(
        f'Data set {report.path.parent.name}',
        f'Manifest: {report.manifest_sha256 or "none"}.',
        badge='fine' if report.ok else 'not fit for training',
        tone='good' if report.ok else 'bad',
        sections=[
            Section('Splits', [Table(head, rows)]),
            Section('Distributions', list(distribution_charts(counts))),
            Section('Problems', [Table(['kind', 'what'], problems, words=[1])]),
        ],
    )
    write_page(path, page)


def distribution_charts(counts: Mapping[str, Mapping[str, Any]], name: str = '') -> Iterator[Chart]:
    """Yield charts of a data set's splits.

    counts: as DataReport.to_json has them. name: of the data set, where a page shows several.
    """
    splits = {split: each['distributions'] for split, each in counts.items() if each['pictures']}

    def shares(kind: str, at: npt.ArrayLike, x: str = '', **axis: Any) -> Chart:
        counted = [(split, found[kind]) for split, found in splits.items()]
        return share_chart(f'{name} {kind}'.strip(), counted, at, x, **axis)

    classes = np.arange(len(CLASS_NAMES))
    yield shares('classes', classes, tickvals=classes, ticktext=[*map(short_name, CLASS_NAMES)])
    middle_px = np.sqrt(HEIGHT_EDGES_PX[:-1] * HEIGHT_EDGES_PX[1:])
    yield shares('box heights', middle_px, 'pixels of the picture', type='log')
    yield shares('boxes per picture', np.arange(MOST_BOXES + 1), 'boxes')
    sizes = []
    for (split, found), colour in zip(splits.items(), SERIES_COLOURS, strict=False):
        width_px, height_px, pictures = np.array(found['picture sizes']).T
        sizes.append(dots(split, width_px, height_px, colour, text=pictures))
    title = f'{name} picture sizes'.strip()
    yield chart(title, sizes, title=title, x='width, px', y='height, px', height_px=220, half=True)


def share_chart(
    name: str, counted: Iterable[tuple[str, npt.ArrayLike]], at: npt.ArrayLike, x: str, **axis: Any
) -> Chart:
    """A chart of counts in bins, as shares of their sum.

    counted: counts by the name of what they are of. at: the bins' middles. axis: more of x's axis.
    """
    traces = []
    for (of, counts), colour in zip(counted, SERIES_COLOURS, strict=False):
        share = np.asarray(counts) / max(1, np.sum(counts))
        traces.append(line(of, at, share, colour, shape='hvh'))
    return chart(name, traces, title=name, x=x, y='share', height_px=220, half=True, x_axis=axis)


def write_normalised(report: DataReport, folder: Path, exclude: Collection[Path] = ()) -> Path:
    """Write FOLDER/{train,val,test}/{images,labels} and data.yaml, which is returned.

    Pictures are links, so that nothing is copied, and a picture that Ultralytics would rewrite is
    replaced here and not there. Labels are written anew: the project's class numbers, polygons as
    boxes, no repeated rows. Left out are the pictures named in `exclude` (as the report has them)
    and those of the training split whose file or label cannot be read. What was there of an
    earlier call is replaced; data.yaml is written last. Raises DataError when the report has a
    fatal problem, or FOLDER cannot be written.
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
    for images in (folder / split / 'images' for split in report.pictures):
        files = [file for file in images.rglob('*') if not file.is_dir()]
        if files and not any(file.is_symlink() for file in files):  # ours are links, nearly all
            raise DataError(f'{images} holds pictures that are no links: give another folder')
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
