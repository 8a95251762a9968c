"""A camera's calibration, as the calibrators of ROS write it, for a bag's camera_info."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cone_perception.errors import SourceError, told_as
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
    with told_as(SourceError, f'{path} is no camera calibration', KeyError, TypeError, ValueError):
        size, model = (read['image_width'], read['image_height']), read['distortion_model']
        if not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f'image_width and image_height must be pixels, not {size}')
        if model not in COEFFICIENTS:
            raise ValueError(f'distortion_model is {model!r}, not one of {list(COEFFICIENTS)}')
        numbers = []
        for name, lengths in {'distortion_coefficients': COEFFICIENTS[model], **MATRICES}.items():
            data = tuple(float(number) for number in read[name]['data'])
            if len(data) not in lengths or not all(map(math.isfinite, data)):
                wanted = ' or '.join(map(str, lengths))
                raise ValueError(f'{name} needs a list `data` of {wanted} finite numbers')
            numbers.append(data)
        info = CameraInfo(*size, model, *numbers)
        if info.k[0] <= 0 or info.k[4] <= 0:
            raise ValueError('camera_matrix has no focal length; the camera is uncalibrated')
    return info


def camera_info_topic(image_topic: str) -> str:
    """Name the camera_info topic of an image topic: beside it, where image_transport looks."""
    return raw_topic(image_topic).rpartition('/')[0] + '/camera_info'


def raw_topic(image_topic: str) -> str:
    """The name of the raw topic, as image_transport forms it."""
    return image_topic.removesuffix('/compressed').removesuffix('/compressedDepth')
