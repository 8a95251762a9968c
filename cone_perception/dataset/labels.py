"""Label files, read and written; every line is named for which Ultralytics would drop the picture.

The rules are those of `verify_image_label` in Ultralytics 8.4, for detection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
    def usable(self) -> bool:
        """Every line says what is meant."""
        return not any(self.refused)

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
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        return Labels(empty, (Fault(0, 'unreadable-label', f'cannot be read: {error}', True),))
    lines = [(n, line.split()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        return Labels(empty)
    rows = _read_table([columns for _, columns in lines], classes)
    if rows is not None and len(np.unique(rows, axis=0)) == len(rows) and (rows[:, 3:] > 0).all():
        return Labels(rows)
    return _read_lines(lines, classes)


def _read_table(table: Sequence[Sequence[str]], classes: int) -> Float32 | None:
    """All rows at once when none is faulty: what nearly every file needs."""
    if any(len(columns) != 5 for columns in table):
        return None
    try:
        rows = np.array(table, np.float32)
    except ValueError:
        return None
    return rows if _row_fault(rows, classes) is None else None


def _read_lines(lines: Sequence[tuple[int, list[str]]], classes: int) -> Labels:
    """Line by line, to say which one is at fault."""
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
    """One row as a box (5,), and the key by which Ultralytics tells rows apart.

    Raises ValueError for text, and for columns that are neither a box nor x y pairs.
    """
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
