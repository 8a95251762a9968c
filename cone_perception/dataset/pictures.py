"""A picture file -> its size, and why training would leave it out, rewrite it, or stop at it.

The rules are those of `check_image` in Ultralytics 8.4, which reads headers only; here the
picture is decoded too, as training will do it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.dataset.labels import Fault, Labels, read_labels
from cone_perception.dataset.layout import PICTURE_FORMATS, label_path

LEAST_SIDE_PX = 10
FORMATS = frozenset([*PICTURE_FORMATS.split(), 'jpeg2000'])
"""Names that Pillow has for them."""
DECODED_OTHERWISE = ('.avif', '.heic', '.heif')
"""Ultralytics decodes these with Pillow when OpenCV cannot."""
ROTATED = (5, 6, 7, 8)
ORIENTATION_TAG = 274

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
        return self.labels.usable and not broken


def map_in_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    unit: str = 'picture',
    workers: int | None = None,
) -> list[Result]:
    """Results of `work`, in the items' order, with a progress bar; workers: default one a core.

    Threads: decoding and hashing run outside of Python's lock, and starting processes costs more
    than they save.
    """
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(tqdm(pool.map(work, items), description, len(items), unit=unit, delay=1))


def read_pictures(
    paths: Sequence[Path], classes: int, description: str, workers: int | None = None
) -> tuple[LabelledPicture, ...]:
    """Decode pictures and read their labels, in their order, with a progress bar.

    classes: how many the data set has. workers: threads; default: one per core.
    """

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
        data = path.read_bytes()
        picture = Image.open(io.BytesIO(data))
        picture.verify()
        size = picture.size
        kind = (picture.format or '').lower()
        # Only a JPEG is turned, and a PNG that was verified cannot be asked any more.
        if kind in ('jpeg', 'mpo') and picture.getexif().get(ORIENTATION_TAG) in ROTATED:
            size = size[::-1]
    except Exception as error:  # Pillow's decoders raise anything; Ultralytics drops for all of it
        return (0, 0), (Fault(0, 'unreadable-picture', f'is no readable picture: {error}', True),)
    if min(size) < LEAST_SIDE_PX:
        message = f'is {size[0]}x{size[1]} px; the least is {LEAST_SIDE_PX}'
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
    if decoded is None and path.suffix.lower() not in DECODED_OTHERWISE:
        message = 'passes the check of its header but cannot be decoded: training would stop at it'
        faults.append(Fault(0, 'undecodable', message, False))
    return size, tuple(faults)
