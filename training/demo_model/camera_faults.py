"""Training pictures with the faults of cameras, which a renderer does not draw.

Imports torch and ultralytics: import it only after `prepare_ultralytics()`.
"""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
from ultralytics.data.dataset import YOLODataset

from cone_perception.types import UInt8


class CameraFaults:
    """What cameras do to a picture and a renderer does not: applied to training pictures only."""

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        labels['img'] = spoil(labels['img'])
        return labels


def spoil(bgr: UInt8) -> UInt8:
    """A copy of the picture with random exposure, white balance, blur, noise and compression."""
    chance = random.random
    picture = bgr
    if chance() < 0.5:  # white balance and exposure per channel, then a tone curve
        gain = np.random.uniform(0.88, 1.12, 3) * random.uniform(0.75, 1.3)
        ramp = np.linspace(0, 1, 256)[:, None] ** random.uniform(0.7, 1.4)
        curves = np.clip(ramp * gain * 255 + random.uniform(-15, 15), 0, 255).astype(np.uint8)
        picture = cv2.LUT(picture, curves[:, None])
    if chance() < 0.15:
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        picture = cv2.addWeighted(picture, keep := random.uniform(0.3, 1.0), grey, 1 - keep, 0)
    height, width = picture.shape[:2]
    blur = chance()
    if blur < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 1.3))
    elif blur < 0.35:  # fewer pixels than the network's
        share = random.uniform(0.5, 0.9)
        small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    elif blur < 0.55:  # the sharpening of camera firmware
        soft = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.7, 1.5))
        amount = random.uniform(0.3, 1.5)
        picture = cv2.addWeighted(picture, 1 + amount, soft, -amount, 0)
    if chance() < 0.3:
        noise = np.empty(picture.shape, np.int16)
        cv2.randn(noise, 0, random.uniform(2, 12))
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
    if chance() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, random.randint(30, 90)]
        picture = cv2.imdecode(cv2.imencode('.jpg', picture, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(picture)


class SpoiledDataset(YOLODataset):  # type: ignore[misc]
    """Ultralytics' dataset whose training pictures pass through CameraFaults."""

    def build_transforms(self, hyp: Any = None) -> Any:
        transforms = super().build_transforms(hyp)
        if self.augment:
            transforms.insert(len(transforms.transforms) - 1, CameraFaults())
        return transforms
