"""One picture of a data set and its label file, read and checked as Ultralytics would.

Every fault is named for which Ultralytics would drop the picture, rewrite it, or stop at it. The
rules are those of `verify_image_label` and `check_image` in Ultralytics 8.4, for detection; it
reads a picture's header only, here it is decoded too, as training will do it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cone_perception.dataset.layout import PICTURE_FORMATS, label_path
from cone_perception.files import open_ordinary, read_text
from cone_perception.types import Float32

BEYOND = 0.01
"""Positions may lie outside of the picture by this share of it; sizes may not be negative."""


@dataclass(frozen=True, slots=True)
class Fault:
    """line: from 1; 0: the whole file. drops: Ultralytics leaves the picture out for it."""

    line: int
    kind: str
    message: str
    drops: bool


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Boxes of one picture.

    rows: (N, 5) float32: class as the file has it, centre x, centre y, width, height as fractions
    of the picture; polygons are boxes, a repeated row counts once, faulty lines are left out.
    missing: there is no label file: background. mixed: boxes beside polygons, which Ultralytics
    drops although every row can be read.
    """

    rows: Float32
    faults: tuple[Fault, ...] = ()
    missing: bool = False
    mixed: bool = False

    @property
    def refused(self) -> Iterator[Fault]:
        """Faults of what cannot be read."""
        return (fault for fault in self.faults if fault.drops and fault.kind != 'mixed-rows')


def corners_px(rows: Float32, width_px: int, height_px: int) -> Float32:
    """(N, 4) float32 left, top, right, bottom in pixels of (N, 5) rows."""
    centre, extent = rows[:, 1:3], rows[:, 3:5]
    corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)
    boxes: Float32 = (corners * (width_px, height_px, width_px, height_px)).astype(np.float32)
    return boxes


def label_rows(
    class_id: npt.ArrayLike, corners: npt.ArrayLike, width_px: int, height_px: int
) -> npt.NDArray[np.float64]:
    """(N, 5) rows of (N,) classes and (N, 4) boxes in pixels: left, top, right, bottom."""
    size = np.array([width_px, height_px] * 2, np.float64)
    share = np.asarray(corners, np.float64).reshape(-1, 4) / size
    middle, extent = (share[:, :2] + share[:, 2:]) / 2, share[:, 2:] - share[:, :2]
    return np.column_stack([np.asarray(class_id, np.float64), middle, extent])


def label_text(rows: npt.NDArray[np.floating], exact: bool = False) -> str:
    """Text of a label file from (N, 5) rows, six decimals; exact: all that float32 needs."""
    return ''.join(
        f'{int(row[0])} {" ".join(str(x) if exact else f"{x:.6f}" for x in row[1:])}\n'
        for row in rows
    )


def read_labels(path: Path, classes: int) -> Labels:
    """Read a label file of a data set with so many classes. Bad content becomes faults."""
    empty = np.zeros((0, 5), np.float32)
    if not path.is_file():
        return Labels(empty, missing=True)
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        return Labels(empty, (Fault(0, 'unreadable-label', f'cannot be read: {error}', True),))
    lines = [(n, line.split()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        return Labels(empty)
    with contextlib.suppress(ValueError):  # all at once when none is faulty, as in nearly all files
        table = np.array([columns for _, columns in lines], np.float32)
        boxes = table.shape[1] == 5 and _row_fault(table, classes) is None
        if boxes and len(np.unique(table, axis=0)) == len(table) and (table[:, 3:] > 0).all():
            return Labels(table)
    faults: list[Fault] = []
    rows: list[Float32] = []
    seen: dict[bytes, int] = {}
    polygons = any(len(columns) > 6 for _, columns in lines)
    mixed = polygons and any(len(columns) == 5 for _, columns in lines)
    if mixed:
        faults.append(Fault(0, 'mixed-rows', 'mixes boxes (5 columns) with polygons', True))
    for number, columns in lines:
        try:
            row, key = _read_row(columns, polygons)
            fault = _row_fault(row[None], classes)
        except ValueError as error:
            fault = ('not-a-box', str(error))
        if fault is not None:
            faults.append(Fault(number, *fault, True))
        elif key in seen:
            message = f'repeats line {seen[key]}; Ultralytics removes it'
            faults.append(Fault(number, 'duplicate-row', message, False))
        else:
            seen[key] = number
            rows.append(row)
            if not (row[3:] > 0).all():
                message = 'a box without extent, which is kept'
                faults.append(Fault(number, 'zero-size', message, False))
    return Labels(np.array(rows, np.float32).reshape(-1, 5), tuple(faults), mixed=mixed)


def _read_row(columns: Sequence[str], polygons: bool) -> tuple[Float32, bytes]:
    """A row as a box (5,), and the key by which Ultralytics tells rows apart. Or ValueError."""
    try:
        values = np.array(columns, np.float32)
    except ValueError:
        raise ValueError(f'is no row of numbers: {" ".join(columns)[:60]!r}') from None
    if len(values) == 5:
        return values, values.tobytes()
    if not polygons or len(values) < 3 or len(values) % 2 == 0:
        raise ValueError(f'has {len(values)} columns; a box has 5: class x y width height')
    points = values[1:].reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    box = np.concatenate([values[:1], (low + high) / 2, high - low])
    return box.astype(np.float32), values.tobytes()


def _row_fault(rows: Float32, classes: int) -> tuple[str, str] | None:
    """Kind and message of what is wrong with (N, 5) rows, or None."""
    class_id, boxes = rows[:, 0], rows[:, 1:]
    if not boxes.max() <= 1 + BEYOND:
        return 'out-of-range', f'{boxes.max():g} lies outside of the picture; at most 1 (pixels?)'
    if not (rows.min() >= -BEYOND and boxes[:, 2:].min() >= 0):
        return 'negative', f'{min(rows.min(), boxes[:, 2:].min()):g} is negative'
    if not (class_id % 1 == 0).all():
        return 'class', f'class {class_id[class_id % 1 != 0][0]:g} is no whole number'
    if not class_id.max() < classes:
        return 'class', f'class {class_id.max():g} does not exist: there are {classes}, from 0'
    return None


FORMATS = frozenset([*PICTURE_FORMATS.split(), 'jpeg2000'])
"""Names that Pillow has for them."""

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPicture:
    """One picture of a data set and its label.

    path, label: files; the label need not exist. size_px: width and height as shown, (0, 0) when
    unknown. labels: boxes with the data set's own class numbers. faults: of the picture.
    """

    path: Path
    label: Path
    size_px: tuple[int, int]
    labels: Labels
    faults: tuple[Fault, ...]

    @property
    def dropped(self) -> bool:
        """Ultralytics would leave the picture out, with no more than a line in its log."""
        return any(fault.drops for fault in (*self.faults, *self.labels.faults))

    @property
    def usable(self) -> bool:
        """The picture can be decoded, and every line of its label says what is meant."""
        broken = any(fault.drops or fault.kind == 'undecodable' for fault in self.faults)
        return not broken and not any(self.labels.refused)


def map_in_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    unit: str = 'picture',
    workers: int | None = None,
) -> list[Result]:
    """Results of `work`, in the items' order, with a progress bar; workers: default one a core.

    Threads: decoding and hashing leave Python's lock; to start processes costs more than it saves.
    """
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(tqdm(pool.map(work, items), description, len(items), unit=unit, delay=1))


def read_pictures(
    paths: Sequence[Path], classes: int, description: str, workers: int | None = None
) -> tuple[LabelledPicture, ...]:
    """Decode pictures and read their labels, in their order; workers: default one a core."""

    def read(path: Path) -> LabelledPicture:
        size, faults = check_picture(path)
        label = label_path(path)
        return LabelledPicture(path, label, size, read_labels(label, classes), faults)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return tuple(map_in_threads(read, paths, description, workers=workers))
    finally:
        cv2.setNumThreads(threads)


def check_picture(path: Path) -> tuple[tuple[int, int], tuple[Fault, ...]]:
    """Width and height in pixels as shown ((0, 0) when unknown), and what is wrong."""
    from PIL import Image, ImageOps

    try:
        with open_ordinary(path) as file:
            data = file.read()
        picture = Image.open(io.BytesIO(data))
        picture.verify()
        size = picture.size
        kind = (picture.format or '').lower()
        # Only a JPEG is turned (tag 274 is its orientation); a verified PNG cannot be asked.
        if kind in ('jpeg', 'mpo') and picture.getexif().get(274) in (5, 6, 7, 8):
            size = size[::-1]
    except Exception as error:  # Pillow's decoders raise anything; Ultralytics drops for all of it
        return (0, 0), (Fault(0, 'unreadable-picture', f'is no readable picture: {error}', True),)
    if min(size) < 10:
        message = f'is {size[0]}x{size[1]} px; the least is 10'
        return size, (Fault(0, 'small-picture', message, True),)
    if kind not in FORMATS:
        return size, (Fault(0, 'format', f'is a {kind} file, which cannot be trained on', True),)
    faults = []
    if kind in ('jpeg', 'jpg') and data[-2:] != b'\xff\xd9':
        try:
            ImageOps.exif_transpose(Image.open(io.BytesIO(data))).load()
        except Exception as error:  # as above
            return size, (Fault(0, 'truncated-picture', f'is cut off: {error}', True),)
        message = 'has no JPEG end mark; Ultralytics would replace the file by a re-encoded one'
        faults.append(Fault(0, 'rewritten', message, False))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    # Ultralytics decodes these suffixes with Pillow when OpenCV cannot.
    if decoded is None and path.suffix.lower() not in ('.avif', '.heic', '.heif'):
        message = 'passes the check of its header but cannot be decoded: training would stop at it'
        faults.append(Fault(0, 'undecodable', message, False))
    return size, tuple(faults)
