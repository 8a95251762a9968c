"""A YOLO26 small enough to train in a test, and pictures that it can learn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from planted_data import write_data_yaml, write_split

from cone_perception.classes import CLASS_NAMES

ARCHITECTURE = """\
nc: {classes}
end2end: {end2end}
reg_max: 1
scales: {{n: [0.33, {width}, 128]}}
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [[2], 1, Detect, [nc]]
"""

SIDE_PX = 64


def write_data_set(folder: Path, pictures: int = 8, splits: str = 'train val test') -> Path:
    """A YOLO data set with a bright box in each picture. Returns its data.yaml."""
    for number, split in enumerate(splits.split()):
        rows = []
        for index in range(pictures):
            random = np.random.default_rng((number, index))
            picture = random.integers(0, 60, (SIDE_PX, SIDE_PX, 3), np.uint8)
            left, top = (int(value) for value in random.integers(4, 28, 2))
            cv2.rectangle(picture, (left, top), (left + 31, top + 31), (250, 200, 150), -1)
            centre = [(value + 16) / SIDE_PX for value in (left, top)]
            rows.append((picture, f'0 {centre[0]} {centre[1]} 0.5 0.5\n'))
        write_split(folder, split, rows)
    layout = {split: f'{split}/images' for split in splits.split()}
    return write_data_yaml(folder, CLASS_NAMES, path=str(folder), **layout)


def write_architecture(
    folder: Path, classes: int = 5, width: float = 0.125, end2end: bool = True
) -> Path:
    """width: of the layers, as a share of 64 channels. end2end: with a head that needs no NMS."""
    path = folder / 'tiny.yaml'
    path.write_text(ARCHITECTURE.format(classes=classes, width=width, end2end=end2end))
    return path
