"""What sensor_msgs/CameraInfo says of a camera."""

from __future__ import annotations

from typing import NamedTuple

COEFFICIENTS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}
"""Distortion model of sensor_msgs/distortion_models -> how many numbers it may have."""


class CameraInfo(NamedTuple):
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
