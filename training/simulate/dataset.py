"""A YOLO dataset of rendered pictures: each picture is a scene of its own, seeded by its place."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.dataset.labels import label_rows, label_text
from cone_perception.dataset.layout import write_data_yaml
from cone_perception.errors import OutputError
from cone_perception.files import write_json, write_whole
from training.simulate.photo import apply_photo, make_photo
from training.simulate.renderer import Label, render
from training.simulate.scene import make_camera, make_scene
from training.simulate.scenery.ego import make_ego
from training.simulate.scenery.library import Library, make_library
from training.simulate.scenery.sketch import Bytes, random_colour
from training.simulate.settings import SimulateSettings

SPLITS = ('train', 'val', 'test')
RENDERER_VERSION = 4
"""Raised whenever the same seed gives another picture."""


@lru_cache(maxsize=3)
def _library(seed: int) -> Library:
    return make_library(seed)


def render_picture(
    settings: SimulateSettings, seed: int, split: str, index: int
) -> tuple[Bytes, list[Label], int]:
    """One picture (BGR), its labels, and the JPEG quality it is meant for."""
    number = SPLITS.index(split)
    rng = np.random.default_rng([seed, number, index])
    library = _library(seed * 3 + number)
    border, fill, inner = (0, 0, 0, 0), 0, settings
    if settings.vary_aspect:
        border, fill, inner = _choose_frame(rng, settings)
    scene = make_scene(rng, inner, library)
    camera = make_camera(rng, inner, scene)
    ego = make_ego(rng, inner.width_px, inner.height_px)
    result = render(scene, camera, library, inner, ego)
    photo = make_photo(rng, settings.photo, settings.width_px)
    image = apply_photo(result.image, photo, library.sensor, rng)
    labels = result.labels
    left, top, right, bottom = border
    if any(border):
        image = cv2.copyMakeBorder(
            image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(fill, fill, fill)
        )
        if bottom > 8 and fill == 0 and rng.random() < 0.5:
            _stamp(rng, np.asarray(image)[-bottom:])
        labels = [label.moved(left, top) for label in labels]
    return np.asarray(image, np.uint8), labels, photo.quality


def _stamp(rng: np.random.Generator, window: Bytes) -> None:
    """A mark as collections print it into the border: an outline and a line of small text."""
    height, width = window.shape[:2]
    x = int(width * rng.uniform(0, 0.7))
    points = (rng.random((9, 2)) * (width * 0.12, height * 0.6) + (x, 0)).astype(np.int32)
    colour = random_colour(rng, 0.8)
    if rng.random() < 0.5:
        cv2.polylines(window, [points], rng.random() < 0.5, colour, 1, cv2.LINE_AA)
    else:
        cv2.rectangle(window, points[0].tolist(), points[1].tolist(), colour, -1)
    text = ''.join(chr(int(c)) for c in rng.integers(48, 91, 24))
    place = (x, int(height * 0.85))
    cv2.putText(window, text, place, cv2.FONT_HERSHEY_PLAIN, width / 1600, (220, 220, 220), 1)


def _choose_frame(
    rng: np.random.Generator, settings: SimulateSettings
) -> tuple[tuple[int, int, int, int], int, SimulateSettings]:
    """A border (left, top, right, bottom), its grey level, and the settings of the inner picture.

    Collections print black frames around their pictures; a letterbox to the network's own shape
    pads with grey 114.
    """
    width, height = settings.width_px, settings.height_px
    kind = rng.random()
    fill = 0
    if kind < 0.52:
        return (0, 0, 0, 0), 0, settings
    if kind < 0.7:
        x, y = int(width * rng.uniform(0.02, 0.1)), int(height * rng.uniform(0.02, 0.12))
        border = (x, y, x, y)
    elif kind < 0.82:
        y = int(height * rng.uniform(0.05, 0.3))
        border = (0, y, 0, y)
        fill = int(rng.choice([0, 114]))
    else:
        x = int(width * rng.uniform(0.05, 0.2))
        border = (x, 0, x, 0)
        fill = int(rng.choice([0, 114]))
    inner = replace(
        settings,
        width_px=width - border[0] - border[2],
        height_px=height - border[1] - border[3],
        min_height_px=settings.min_height_px * width / (width - border[0] - border[2]),
    )
    return border, fill, inner


def label_lines(labels: list[Label], width_px: int, height_px: int) -> str:
    """YOLO text: class, centre x, centre y, width, height as fractions of the picture."""
    boxes = [label.xyxy_px for label in labels]
    return label_text(label_rows([label.class_id for label in labels], boxes, width_px, height_px))


def write_picture(out: Path, settings: SimulateSettings, seed: int, split: str, index: int) -> None:
    """Render one picture into its place; the label last, so that it marks a finished pair."""
    name = f'{split}_{index:06d}'
    label_path = out / split / 'labels' / f'{name}.txt'
    if label_path.exists():
        return
    image, labels, quality = render_picture(settings, seed, split, index)
    written, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise RuntimeError(f'OpenCV could not encode {name} as JPEG: reinstall opencv-python')
    write_whole(out / split / 'images' / f'{name}.jpg', data.tobytes())
    text = label_lines(labels, image.shape[1], image.shape[0])
    write_whole(label_path, text)


def _write_many(
    out: Path, settings: SimulateSettings, seed: int, split: str, indices: list[int]
) -> int:
    cv2.setNumThreads(1)
    for index in indices:
        write_picture(out, settings, seed, split, index)
    return len(indices)


def write_dataset(
    out: Path, settings: SimulateSettings, seed: int, counts: dict[str, int], workers: int = 1
) -> None:
    """Render OUT/{train,val,test}/{images,labels}, data.yaml and simulate.json.

    Pictures that are there already are kept, so an interrupted run goes on where it stopped.
    Raises OutputError when OUT was rendered with other settings or another seed.
    """
    about = {
        'seed': seed,
        'renderer_version': RENDERER_VERSION,
        'settings': settings.as_dict(),
        'versions': {'numpy': np.__version__, 'opencv': cv2.__version__},
    }
    record = out / 'simulate.json'
    if record.exists():
        before = json.loads(record.read_text(encoding='utf-8'))
        changed = [key for key in about if before.get(key) != about[key]]
        if changed:
            raise OutputError(
                f'{out} was rendered with another {", ".join(changed)}: '
                'choose an empty folder or delete this one'
            )
    for split in SPLITS:
        for kind in ('images', 'labels'):
            (out / split / kind).mkdir(parents=True, exist_ok=True)
    write_json(record, about)
    write_data_yaml(out, SPLITS)
    jobs = [
        (split, list(range(start, min(start + 8, counts[split]))))
        for split in SPLITS
        for start in range(0, counts[split], 8)
    ]
    with tqdm(total=sum(counts.values()), unit='picture', desc='render') as bar:
        if workers <= 1:
            for split, indices in jobs:
                bar.update(_write_many(out, settings, seed, split, indices))
            return
        # A fork of a process with threads, OpenCV's say, can hang.
        with ProcessPoolExecutor(workers, multiprocessing.get_context('spawn')) as pool:
            running = [
                pool.submit(_write_many, out, settings, seed, split, indices)
                for split, indices in jobs
            ]
            for done in as_completed(running):
                bar.update(done.result())
