"""A small YOLO data set for tests, sound until a test plants a fault."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from tiny_network import painted

CLASSES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')
COUNTS = {'train': 6, 'val': 3, 'test': 2}
DATA_YAML = """\
train: ../train/images
val: ../valid/images
test: ../test/images
nc: 5
names: [blue_cone, large_orange_cone, orange_cone, unknown_cone, yellow_cone]
"""
FOLDERS = {'train': 'train', 'val': 'valid', 'test': 'test'}


def plant(root: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """Write a set as Roboflow lays it out: no two pictures are equal. Returns `root`."""
    random = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    (root / 'data.yaml').write_text(DATA_YAML)
    for split, count in counts.items():
        for kind in ('images', 'labels'):
            (root / FOLDERS[split] / kind).mkdir(parents=True)
        for index in range(count):
            picture = random.integers(0, 256, (6, 8, 3), np.uint8)
            picture = cv2.resize(picture, (96, 64))
            cv2.imwrite(str(root / FOLDERS[split] / 'images' / f'{split}_{index}.jpg'), picture)
            write_label(root, split, index, f'{index % 5} 0.5 0.5 0.25 0.5\n4 0.2 0.2 0.1 0.1\n')
    return root


Row = tuple[np.ndarray, str]


def write_split(root: Path, split: str, rows: Iterable[Row] | Mapping[str, Row]) -> None:
    """Write pictures and labels as Ultralytics lays them out: by name, or as SPLIT000.png ..."""
    if not isinstance(rows, Mapping):
        rows = {f'{split}{index:03}.png': row for index, row in enumerate(rows)}
    for name, (picture, label) in rows.items():
        image, text = (root / split / kind / name for kind in ('images', 'labels'))
        for path in (image, text):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), picture)
        text.with_suffix('.txt').write_text(label)


def painted_row(cones: Collection[tuple[Any, ...]], names: Sequence[str], size_px: Any = ()) -> Row:
    """A picture of cones (class, left, top, width, height) and its label, classes as in names."""
    width_px, height_px = size_px or (1280, 720)
    lines = []
    for name, left, top, width, height in cones:
        x, y = (left + width / 2) / width_px, (top + height / 2) / height_px
        lines.append(f'{names.index(name)} {x} {y} {width / width_px} {height / height_px}\n')
    return painted(*cones, height_px=height_px, width_px=width_px), ''.join(lines)


def write_data_yaml(root: Path, names: Iterable[str], **folders: str) -> Path:
    """folders: of the pictures of each split. Returns the file's path."""
    path = root / 'data.yaml'
    path.write_text(yaml.safe_dump({'names': [*names], **folders}, sort_keys=False))
    return path


def picture_path(root: Path, split: str, index: int) -> Path:
    return root / FOLDERS[split] / 'images' / f'{split}_{index}.jpg'


def write_label(root: Path, split: str, index: int, text: str | bytes) -> Path:
    path = root / FOLDERS[split] / 'labels' / f'{split}_{index}.txt'
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path
