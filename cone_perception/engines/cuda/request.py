"""Requests to the GPU and its answers, byte for byte: the structs of request.cuh for numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cone_perception.errors import EngineError, ImageError, ModelError
from cone_perception.preprocess import View
from cone_perception.types import CameraPicture, Detections, Float32, OutputLayout, UInt8

MAX_BATCH, MAX_PATCHES, MAX_CLASSES, MAX_CANDIDATES, MAX_KEPT = 4, 2, 16, 1024, 256
"""Limits of request.cuh. Views with more candidates or boxes are decoded on the CPU."""

FORMATS = {
    'bgr8': 0,
    'rgb8': 1,
    'bgra8': 2,
    'rgba8': 3,
    'mono8': 4,
    'yuv422': 5,
    'uyvy': 5,
    'yuv422_yuy2': 6,
    'yuyv': 6,
}
"""Encodings of sensor_msgs/Image that the kernel reads -> enum Format of request.cuh."""

BYTES_PER_PIXEL = (3, 3, 4, 4, 1, 2, 2)
"""By enum Format."""

_BAD_SCORE, _BAD_CLASS, _BAD_BOX = 1, 2, 4


def _integers(names: str) -> list[tuple[str, type[np.int32]]]:
    """Members of a struct that are int."""
    return [(name, np.int32) for name in names.split()]


PICTURE = np.dtype(
    [
        *_integers('offset step format'),
        ('patches', np.int32, (MAX_PATCHES, 8)),
        *_integers('candidates flags worst_class'),
    ]
)
REQUEST = np.dtype(
    [
        *_integers('pictures classes'),
        ('nms_iou', np.float32),
        ('thresholds', np.float32, MAX_CLASSES),
        ('picture', PICTURE, MAX_BATCH),
    ]
)
CANDIDATE_BYTES = 28
BOX = np.dtype(
    [
        ('xyxy', np.float32, 4),
        ('score', np.float32),
        *_integers('class_id'),
        ('class_score', np.float32, MAX_CLASSES),
    ]
)
ANSWER = np.dtype(
    [*_integers('candidates kept flags worst_class scored'), ('boxes', BOX, MAX_KEPT)]
)

_ALIGNMENT = 256
FIRST_PICTURE = -(-REQUEST.itemsize // _ALIGNMENT) * _ALIGNMENT
"""Offset of the first picture in an upload, in bytes."""


@dataclass(frozen=True, slots=True)
class CameraJob:
    """Views to search, and the picture of each; a picture given several times goes up once.

    thresholds: (classes,) least scores. raw: the network's output, too.
    """

    pictures: Sequence[CameraPicture]
    views: Sequence[View]
    thresholds: Float32
    nms_iou: float
    raw: bool = False


def upload_bytes(pictures: Sequence[CameraPicture]) -> int:
    """Size of an upload of these pictures and their request. Raises ImageError for a bad one."""
    return _starts(pictures)[1]


def write_upload(upload: UInt8, job: CameraJob) -> None:
    """Write the request and the pictures' bytes into `upload`, upload_bytes long or longer.

    Raises EngineError for too many classes, ValueError for a view of a picture of another size.
    """
    pictures, thresholds = job.pictures, job.thresholds
    if len(thresholds) > MAX_CLASSES:
        raise EngineError(
            f'the GPU decodes at most {MAX_CLASSES} classes, the model has {len(thresholds)}: '
            'run it on the CPU.'
        )
    request = upload[: REQUEST.itemsize].view(REQUEST)
    request[:] = np.zeros(1, REQUEST)
    request['pictures'] = len(pictures)
    request['classes'] = len(thresholds)
    request['nms_iou'] = job.nms_iou
    request['thresholds'][0, : len(thresholds)] = thresholds
    starts, _ = _starts(pictures)
    for index, (picture, view) in enumerate(zip(pictures, job.views, strict=True)):
        if (view.width_px, view.height_px) != (picture.width, picture.height):
            raise ValueError(
                f'a view of {view.width_px}x{view.height_px} does not fit a picture of '
                f'{picture.width}x{picture.height}'
            )
        patches = [(*patch.source, *patch.place) for patch in view.patches]
        patches += [(0,) * 8] * (MAX_PATCHES - len(patches))
        source = starts[picture], picture.step, FORMATS[picture.encoding]
        request['picture'][0, index] = (*source, patches, 0, 0, 0)
    for picture, start in starts.items():
        length = _length(picture)
        upload[start : start + length] = picture.data[:length]


def read_answer(answer: npt.NDArray[np.void], classes: int) -> Detections | None:
    """The boxes of one view's answer, network pixels, best score first; copied.

    None when there were more than the lists hold: then the network's output must be decoded on the
    CPU. Raises ModelError as decode.decode does.
    """
    flags = int(answer['flags'])
    if flags & _BAD_SCORE:
        raise ModelError(
            'the network put out scores that are not numbers. Its quantisation or its precision '
            'is broken: export it again and compare with FP32.'
        )
    if flags & _BAD_CLASS:
        raise ModelError(
            f'the network found class {int(answer["worst_class"])}, but its card names only '
            f'{classes} classes. File and card come from different exports.'
        )
    if answer['candidates'] > MAX_CANDIDATES or answer['kept'] > MAX_KEPT:
        return None
    if flags & _BAD_BOX:
        raise ModelError('the network put out boxes that are not numbers: export it again.')
    boxes, scored = answer['boxes'][: int(answer['kept'])], int(answer['scored'])
    return Detections(
        np.array(boxes['xyxy'], np.float32),
        np.array(boxes['score'], np.float32),
        boxes['class_id'].astype(np.int64),
        class_score=np.array(boxes['class_score'][:, :scored]) if scored else None,
    )


def guess_layout(output_shape: tuple[int, ...]) -> OutputLayout:
    """Layout of an output (B, .., ..) whose classes are not known yet; open_engine checks it."""
    return 'end_to_end' if output_shape[2] == 6 < output_shape[1] else 'anchors'


def _starts(pictures: Sequence[CameraPicture]) -> tuple[dict[CameraPicture, int], int]:
    """Offset in bytes of each picture in an upload, which holds it once, and of the end."""
    starts, end = {}, FIRST_PICTURE
    for picture in dict.fromkeys(pictures):
        starts[picture] = end
        end -= -_length(picture) // _ALIGNMENT * _ALIGNMENT
    return starts, end


def _length(picture: CameraPicture) -> int:
    """Number of bytes that are read of a picture. Raises ImageError: when it has fewer."""
    what = f'{picture.width}x{picture.height} picture with encoding {picture.encoding!r}'
    if picture.encoding not in FORMATS:
        raise ImageError(f'{what}: the GPU reads {", ".join(FORMATS)}; convert it to bgr8')
    row = picture.width * BYTES_PER_PIXEL[FORMATS[picture.encoding]]
    if FORMATS[picture.encoding] in (FORMATS['uyvy'], FORMATS['yuyv']) and picture.width % 2:
        raise ImageError(f'{what}: the width must be even')
    if picture.step < row:
        raise ImageError(f'{what}: step is {picture.step} bytes, but a row needs {row}')
    length = (picture.height - 1) * picture.step + row
    if len(picture.data) < length:
        raise ImageError(f'{what}: it has {len(picture.data)} bytes of data, but needs {length}')
    return length
