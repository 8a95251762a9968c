"""A camera's calibration, as the calibrators of ROS write it, for a bag's camera_info."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cone_perception.errors import SourceError
from cone_perception.files import read_yaml

COEFFICIENTS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}
"""Distortion model of sensor_msgs/distortion_models -> how many numbers it may have."""

MATRICES = {'camera_matrix': (9,), 'rectification_matrix': (9,), 'projection_matrix': (12,)}


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """The content of sensor_msgs/CameraInfo beside its header; names as there, in small letters.

    width_px, height_px: of the pictures that it was calibrated on. d: coefficients of
    distortion_model. k, r: 3x3, p: 3x4, row by row; k and p in pixels.
    """

    width_px: int
    height_px: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]


def load_camera_info(path: Path) -> CameraInfo:
    """The calibration in a YAML file of camera_calibration. Raises SourceError."""
    read = read_yaml(path, SourceError)
    if not isinstance(read, dict):
        raise SourceError(f'{path} is no camera calibration: it holds no keys.')
    for name in ('image_width', 'image_height'):
        if not isinstance(size := read.get(name), int) or size <= 0:
            raise SourceError(f'{path}: {name} is {size!r}, but must be a number of pixels.')
    model = read.get('distortion_model')
    if model not in COEFFICIENTS:
        raise SourceError(f'{path}: distortion_model is {model!r}, not one of {list(COEFFICIENTS)}')
    lengths = {'distortion_coefficients': COEFFICIENTS[model], **MATRICES}
    d, k, r, p = (_numbers(path, read, name, length) for name, length in lengths.items())
    info = CameraInfo(read['image_width'], read['image_height'], model, d, k, r, p)
    if info.k[0] <= 0 or info.k[4] <= 0:
        raise SourceError(f'{path}: camera_matrix has no focal length; the camera is uncalibrated.')
    return info


def camera_info_topic(image_topic: str) -> str:
    """Name the camera_info topic of an image topic: beside it, where image_transport looks."""
    return raw_topic(image_topic).rpartition('/')[0] + '/camera_info'


def raw_topic(image_topic: str) -> str:
    """The name of the raw topic, as image_transport forms it."""
    return image_topic.removesuffix('/compressed').removesuffix('/compressedDepth')


def _numbers(
    path: Path, read: dict[str, Any], name: str, lengths: tuple[int, ...]
) -> tuple[float, ...]:
    entry = read.get(name)
    data = entry.get('data') if isinstance(entry, dict) else None
    wanted = ' or '.join(map(str, lengths))
    if not isinstance(data, list) or len(data) not in lengths:
        raise SourceError(f'{path}: {name} needs a list `data` of {wanted} numbers, not {data!r}')
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in data):
        raise SourceError(f'{path}: {name} must hold finite numbers only, not {data}')
    return tuple(float(number) for number in data)
