"""A picture file -> its size, and why training would leave it out, rewrite it, or stop at it.

The rules are those of `check_image` in Ultralytics 8.4, which reads headers only; here the
picture is decoded too, as training will do it.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from cone_perception.dataset.labels import Fault
from cone_perception.dataset.layout import PICTURE_FORMATS

LEAST_SIDE_PX = 10
FORMATS = frozenset([*PICTURE_FORMATS.split(), 'jpeg2000'])
"""As Pillow calls them."""
DECODED_OTHERWISE = ('.avif', '.heic', '.heif')
"""Ultralytics decodes these with Pillow when OpenCV cannot."""
ROTATED = (5, 6, 7, 8)
ORIENTATION_TAG = 274


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
