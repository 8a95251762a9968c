"""A verified data set -> one that Ultralytics reads as the project means it."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from cone_perception.dataset.labels import label_text
from cone_perception.dataset.layout import write_data_yaml
from cone_perception.dataset.pictures import LabelledPicture
from cone_perception.errors import DataError
from training.data.report import DataReport, map_rows


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
    left_out = set(exclude)
    try:
        (folder / 'data.yaml').unlink(missing_ok=True)
        for split, pictures in report.pictures.items():
            shutil.rmtree(folder / split, ignore_errors=True)
            kept = [entry for entry in pictures if entry.usable and entry.path not in left_out]
            _write_split(report, folder / split, kept)
        return write_data_yaml(folder, report.pictures)
    except OSError as error:
        raise DataError(f'{folder} cannot be written: {error}. Is there space left?') from error


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
