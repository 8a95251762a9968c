"""Image message -> bgr8 picture. Every field of a message is checked before it is used.

Topics beside an image topic are named here too.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from cone_perception import MOST_PIXELS
from cone_perception.errors import ConePerceptionError, ImageError, SourceError, told_as
from cone_perception.types import CameraPicture, Frame, UInt8

_CHANNELS = {
    **dict.fromkeys(('bgr8', 'rgb8'), 3),
    **dict.fromkeys(('bgra8', 'rgba8'), 4),
    **dict.fromkeys(('bgr16', 'rgb16'), 6),
    **dict.fromkeys(('bgra16', 'rgba16'), 8),
    **dict.fromkeys(('mono8', 'bayer_rggb8', 'bayer_bggr8', 'bayer_gbrg8', 'bayer_grbg8'), 1),
    **dict.fromkeys(('mono16', 'bayer_rggb16', 'bayer_bggr16', 'bayer_gbrg16', 'bayer_grbg16'), 2),
    **dict.fromkeys(('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'), 2),
    **dict.fromkeys(('nv12', 'nv21'), 1),
}
"""Encoding -> bytes per pixel of a row (of the luma plane, for the planar nv ones)."""

_ALIASES = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8', '16UC1': 'mono16'}
"""OpenCV's names say nothing of colour; these are what drivers mean by them."""

_NV_TO_BGR = {'nv12': cv2.COLOR_YUV2BGR_NV12, 'nv21': cv2.COLOR_YUV2BGR_NV21}


def camera_info_topic(image_topic: str) -> str:
    """Name the camera_info topic of an image topic: beside it, where image_transport looks."""
    return raw_topic(image_topic).rpartition('/')[0] + '/camera_info'


def raw_topic(image_topic: str) -> str:
    """The name of the raw topic, as image_transport forms it."""
    return image_topic.removesuffix('/compressed').removesuffix('/compressedDepth')


def to_bgr(message: Any, upright: bool = False) -> UInt8:
    """Decode a sensor_msgs Image or CompressedImage into (H, W, 3) uint8 BGR.

    upright: turn a compressed picture as its EXIF says; a camera's is left as it lies.
    A view of the message's own memory where the message is bgr8 already. Raises ImageError.
    """
    if hasattr(message, 'format'):
        return _from_compressed(message, upright)
    height, width = int(message.height), int(message.width)
    encoding, what, lines = _checked_lines(message)
    if encoding == 'bgr8':
        return lines.reshape(height, width, 3)  # a view, also where rows are padded
    try:
        if encoding in _NV_TO_BGR:
            planes = np.ascontiguousarray(lines)
            return np.asarray(cv2.cvtColor(planes, _NV_TO_BGR[encoding]), np.uint8)
        data = np.ascontiguousarray(lines).reshape(-1)
        big = int(message.is_bigendian)
        tight = CameraPicture(data, encoding, width, height, lines.shape[1], big)
        picture = np.asarray(converter()[1](tight))
    except Exception as error:  # the converters raise whatever their own code raises
        raise ImageError(f'{what}: it cannot be converted: {error}') from error
    if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
        raise ImageError(f'{what}: it became {picture.shape} {picture.dtype} instead of bgr8')
    return picture


def read_picture(
    path: Path, kind: type[ConePerceptionError] = SourceError, flags: int = cv2.IMREAD_COLOR
) -> UInt8:
    """Read a picture file as (H, W, 3) uint8 BGR, or as OpenCV's `flags` say.

    Raises `kind` when it cannot be decoded.
    """
    what, advice = f'{path} cannot be decoded as a picture', 'Replace or remove it.'
    with told_as(kind, what, cv2.error, advice=advice):
        picture = cv2.imread(str(path), flags)
    if picture is None:
        raise kind(f'{what}: replace or remove it.')
    return np.asarray(picture, np.uint8)


def bgr_of(picture: Frame | CameraPicture) -> UInt8:
    """Return the picture as (H, W, 3) uint8 BGR. Raises ImageError."""
    return picture.bgr if isinstance(picture, Frame) else to_bgr(picture)


def grey_level(picture: Frame | CameraPicture) -> float:
    """Mean of the pixels, 0..255, by a few of them. Raises ImageError."""
    if isinstance(picture, Frame):
        return float(picture.bgr[::16, ::16].mean())
    encoding, _, lines = _checked_lines(picture)
    if encoding in _NV_TO_BGR:  # its colours lie elsewhere
        return grey_level(Frame(to_bgr(picture)))
    few = lines[np.arange(len(lines)) % 32 < 2]  # two rows of each 32 are a Bayer mosaic still
    told = few.reshape(-1), encoding, picture.width, len(few), few.shape[1], picture.is_bigendian
    return float(to_bgr(CameraPicture(*told))[:, ::16].mean())


def as_sent(message: Any, encodings: frozenset[str]) -> CameraPicture | None:
    """Return a sensor_msgs Image as a picture in the camera's own bytes, which are not copied.

    None for a CompressedImage, and where `encodings` lacks the encoding. Raises ImageError.
    """
    if hasattr(message, 'format'):
        return None
    encoding, _, _ = _checked_lines(message)
    if encoding not in encodings:
        return None
    data = np.frombuffer(message.data, np.uint8)
    return CameraPicture(data, encoding, int(message.width), int(message.height), int(message.step))


def _from_compressed(message: Any, upright: bool) -> UInt8:
    """JPEG, PNG and whatever else OpenCV reads."""
    data = np.frombuffer(message.data, np.uint8)
    what = f'compressed picture of {len(data)} bytes (format {message.format!r})'
    if not len(data):
        raise ImageError(f'{what}: it is empty')
    # image_transport writes "ENCODING; CODEC compressed TARGET". A mosaic lies in one channel.
    encoding = message.format.partition(';')[0].strip()
    is_bayer = encoding.startswith('bayer_')
    if is_bayer and encoding not in _CHANNELS:
        raise ImageError(f'{what}: the Bayer pattern is not known')
    encoded = data.tobytes()
    if encoded[:2] == b'\xff\xd8':
        picture = _from_jpeg(encoded, what, is_bayer, upright)
    else:
        picture = _from_others(encoded, what, is_bayer, upright)
    if picture.ndim == 2:
        height, width = picture.shape
        encoding = f'{encoding.rstrip("0123456789")}{8 * picture.itemsize}'
        order = sys.byteorder == 'big'
        rows = picture.view(np.uint8).reshape(-1)
        return to_bgr(CameraPicture(rows, encoding, width, height, width * picture.itemsize, order))
    return np.asarray(picture, np.uint8)


def _from_jpeg(encoded: bytes, what: str, is_bayer: bool, upright: bool) -> npt.NDArray[Any]:
    """(H, W, 3) uint8, or (H, W) of a mosaic. A picture that libjpeg complains of is refused.

    OpenCV, with the same libjpeg-turbo inside, fills what is damaged and says nothing.
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
        _check_size(width, height, what)
        four = space in ('CMYK', 'YCCK')
        kind = 'CMYK' if four else 'GRAY' if is_bayer and space == 'Gray' else 'BGR'
        picture = simplejpeg.decode_jpeg(encoded, kind)
    except ValueError as error:
        raise ImageError(f'{what}: the JPEG is damaged: {error}') from error
    if four or (upright and b'Exif\0' in encoded[: 1 << 16]):
        return _from_others(encoded, what, False, upright)
    return np.asarray(picture[..., 0] if kind == 'GRAY' else picture)


def _from_others(encoded: bytes, what: str, is_bayer: bool, upright: bool) -> npt.NDArray[Any]:
    """What OpenCV decodes: (H, W, 3) uint8, or (H, W) uint8 or uint16 of a mosaic."""
    if encoded[:4] == b'\x89PNG':
        # The decoder fills what is missing with grey and returns it as a good picture.
        if b'IEND' not in encoded[-64:]:
            raise ImageError(f'{what}: the PNG is truncated, its end marker is missing')
        width, height = (int.from_bytes(encoded[at : at + 4], 'big') for at in (16, 20))
        _check_size(width, height, what)
    turn = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR if is_bayer else cv2.IMREAD_COLOR
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags | turn)
    except cv2.error as error:
        raise ImageError(f'{what}: it cannot be decoded: {error.err}') from error
    if picture is None:
        raise ImageError(f'{what}: it is corrupt, or of a kind that OpenCV does not read')
    return np.asarray(picture)


def _check_size(width: int, height: int, what: str) -> None:
    if width * height > MOST_PIXELS:
        most = f'{MOST_PIXELS >> 20} megapixels'
        raise ImageError(f'{what}: it has {width}x{height} pixels, more than {most}')


def _checked_lines(message: Any) -> tuple[str, str, UInt8]:
    """Check an Image. Returns its encoding, its name in errors, its rows without padding."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = _ALIASES.get(message.encoding, message.encoding)
    what = f'{width}x{height} picture with encoding {message.encoding!r}'
    if encoding not in _CHANNELS:
        raise ImageError(f'{what}: the encoding is not known; known are {", ".join(_CHANNELS)}')
    if height < 1 or width < 1:
        raise ImageError(f'{what}: it has no pixels')
    row = width * _CHANNELS[encoding]
    if step < row:
        raise ImageError(f'{what}: step is {step} bytes, but a row needs {row}')
    if encoding in _NV_TO_BGR and (width % 2 or height % 2):
        raise ImageError(f'{what}: width and height must be even')
    if encoding in ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv') and width % 2:
        raise ImageError(f'{what}: the width must be even')
    if encoding.startswith('bayer') and min(width, height) < 2:
        raise ImageError(f'{what}: a Bayer pattern needs at least 2x2 pixels')
    rows = height * 3 // 2 if encoding in _NV_TO_BGR else height
    data = np.frombuffer(message.data, np.uint8)
    if len(data) < rows * step:
        raise ImageError(
            f'{what}: it has {len(data)} bytes of data, but {rows} rows need {rows * step}'
        )
    return encoding, what, data[: rows * step].reshape(rows, step)[:, :row]


@functools.cache
def converter() -> tuple[str, Callable[[Any], npt.NDArray[Any]]]:
    """Choose what converts encodings, name and function: cv_bridge, else rosbags-image.

    apt's cv_bridge is built against numpy 1 and breaks in several ways with numpy 2, so it is
    tried on four pixels before it is trusted.
    """
    try:
        from cv_bridge import CvBridge

        convert = functools.partial(CvBridge().imgmsg_to_cv2, desired_encoding='bgr8')
        rgb = np.arange(12, dtype=np.uint8)
        trial = convert(CameraPicture(rgb, 'rgb8', 2, 2, 6))
        if np.array_equal(trial, rgb.reshape(2, 2, 3)[..., ::-1]):
            return 'cv_bridge', convert
    except Exception as error:  # an ImportError, or whatever numpy's change makes of it
        if not isinstance(error, ModuleNotFoundError):
            print(f'cv_bridge does not work here ({error}); using rosbags-image', file=sys.stderr)
    from rosbags.image import message_to_cvimage

    return 'rosbags-image', functools.partial(message_to_cvimage, color_space='bgr8')
