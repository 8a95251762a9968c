"""Pictures in every encoding of sensor_msgs, encoded by formulas of their own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from cone_perception.pictures.draw import Film
from cone_perception.pictures.sources import open_source

TILE_PX = 16
_BAYER = ('rggb', 'bggr', 'gbrg', 'grbg')
_ALIASES = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8', '16UC1': 'mono16'}

ENCODINGS = (
    *('bgr8', 'rgb8', 'bgra8', 'rgba8', 'mono8', 'bgr16', 'rgb16', 'bgra16', 'rgba16', 'mono16'),
    *(f'bayer_{order}{bits}' for order in _BAYER for bits in (8, 16)),
    *('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21'),
    *_ALIASES,
)


def tile_picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 BGR of tiles, each of one colour."""
    tiles = np.random.default_rng(3).integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    return tiles.astype(np.uint8).repeat(TILE_PX, 0).repeat(TILE_PX, 1)[:height, :width]


def encode(bgr: np.ndarray, encoding: str, padding: int = 0) -> SimpleNamespace:
    """An Image message of the picture; each row is followed by `padding` bytes of noise."""
    rows = _rows(bgr, _ALIASES.get(encoding, encoding))
    noise = np.random.default_rng(4).integers(0, 256, (len(rows), padding), np.uint8)
    return SimpleNamespace(
        height=bgr.shape[0],
        width=bgr.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1] + padding,
        data=np.concatenate([rows, noise], axis=1).reshape(-1),
    )


def compressed(picture: np.ndarray, kind: str = '.jpg') -> SimpleNamespace:
    """A CompressedImage message of the picture."""
    _, data = cv2.imencode(kind, picture)
    return SimpleNamespace(format=f'bgr8; {kind[1:]} compressed bgr8', data=data.tobytes())


def write_video(path: Path, pictures: Iterable[np.ndarray], rate_hz: float = 20) -> Path:
    """An MP4 of the pictures."""
    film = Film(path, rate_hz)
    for bgr in pictures:
        film.add(bgr)
    film.close()
    return path


def read_video(path: Path) -> list[np.ndarray]:
    """(H, W, 3) uint8 BGR of every picture."""
    return [frame.bgr for frame in open_source(path).frames]


def _rows(bgr: np.ndarray, encoding: str) -> np.ndarray:
    """(rows, bytes) uint8."""
    height, width = bgr.shape[:2]
    if encoding.endswith('16'):
        wide = _samples(bgr, encoding[:-2]).astype(np.uint16) * 257
        return wide.reshape(height, -1).view(np.uint8)
    if encoding.endswith('8'):
        return _samples(bgr, encoding[:-1]).reshape(height, -1)
    y, u, v = _yuv(bgr)
    if encoding in ('nv12', 'nv21'):
        pair = (u, v) if encoding == 'nv12' else (v, u)
        chroma = np.stack([plane[::2, ::2] for plane in pair], axis=2).reshape(height // 2, width)
        return np.concatenate([y, chroma])
    chroma = np.stack([u[:, ::2], v[:, ::2]], axis=2).reshape(height, width)
    order = (y, chroma) if encoding in ('yuv422_yuy2', 'yuyv') else (chroma, y)
    return np.stack(order, axis=2).reshape(height, -1)


def _samples(bgr: np.ndarray, encoding: str) -> np.ndarray:
    if encoding == 'mono':
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    if encoding.startswith('bayer_'):
        mosaic = np.empty(bgr.shape[:2], np.uint8)
        for index, colour in enumerate(encoding.removeprefix('bayer_')):
            y, x = divmod(index, 2)
            mosaic[y::2, x::2] = bgr[y::2, x::2, 'bgr'.index(colour)]
        return mosaic
    opaque = np.dstack([bgr, np.full(bgr.shape[:2], 255, np.uint8)])
    return np.ascontiguousarray(opaque[..., ['bgra'.index(channel) for channel in encoding]])


def _yuv(bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Luma 16..235 and chroma 16..240 by ITU-R BT.601."""
    blue, green, red = (bgr[..., channel] / 255 for channel in range(3))
    y = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112 * blue
    v = 128 + 112 * red - 93.786 * green - 18.214 * blue
    return tuple(np.round(plane).astype(np.uint8) for plane in (y, u, v))
