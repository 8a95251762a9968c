"""A YOLO dataset of rendered pictures: each picture is a scene of its own, seeded by its place."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.bags import reader
from cone_perception.dataset.labels import label_rows, label_text
from cone_perception.dataset.layout import write_data_yaml
from cone_perception.errors import OutputError
from cone_perception.files import to_json, write_json, write_whole
from cone_perception.types import Frame
from training.simulate.bag import FRAME_IDS, DriveFrame, truth_message
from training.simulate.flare import make_weather
from training.simulate.photo import apply_photo, cast_photo, make_photo
from training.simulate.renderer import Label, render
from training.simulate.rig.eyes import calibration
from training.simulate.scene import SimulateSettings, make_scene
from training.simulate.scenery.cockpit import make_cockpit
from training.simulate.scenery.ego import make_ego
from training.simulate.scenery.library import make_library
from training.simulate.scenery.sketch import Bytes, random_colour
from training.simulate.viewpoint import make_camera

SPLITS = ('train', 'val', 'test')
RENDERER_VERSION = 5
"""Raised whenever the same seed gives another picture."""


_library = lru_cache(maxsize=3)(make_library)


def render_picture(settings: SimulateSettings, seed: int, split: str, index: int) -> DriveFrame:
    """One picture, as if a left eye had taken it; its place in the set is its stamp."""
    number = SPLITS.index(split)
    rng = np.random.default_rng([seed, number, index])
    library = _library(seed * 3 + number)
    x, y, fill, inner = 0, 0, 0, settings
    if settings.vary_aspect:
        x, y, fill, inner = _choose_frame(rng, settings)
    scene = make_scene(rng, inner, library)
    camera = make_camera(rng, inner, scene)
    scene, flare = make_weather(rng, scene, camera, settings.photo)
    ego_of = make_cockpit if rng.random() < 0.1 else make_ego
    ego = ego_of(rng, inner.width_px, inner.height_px)
    result = render(scene, camera, library, inner, ego)
    photo = make_photo(rng, settings.photo, settings.width_px)
    photo = replace(cast_photo(rng, photo, settings.photo), flare=flare)
    image = apply_photo(result.image, photo, library.sensor, rng)
    if x or y:
        image = np.pad(image, ((y, y), (x, x), (0, 0)), constant_values=fill)
        if y > 8 and fill == 0 and rng.random() < 0.5:
            _stamp(rng, image[-y:])
    border = np.array([x, y, x, y])
    labels = [
        replace(label, xyxy_px=tuple((border + label.xyxy_px).tolist())) for label in result.labels
    ]
    whole = replace(
        camera,
        width_px=camera.width_px + 2 * x,
        height_px=camera.height_px + 2 * y,
        cx_px=camera.cx_px + x,
        cy_px=camera.cy_px + y,
    )
    eyes, info = {'left': whole}, calibration(whole, 'left')
    return DriveFrame('left', index, index, image, labels, whole, photo.quality, eyes, info)


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
) -> tuple[int, int, int, SimulateSettings]:
    """Width at the sides and height above and below of a border, its grey, the inner settings.

    Collections print black frames around their pictures; a letterbox to the network's own shape
    pads with grey 114.
    """
    width, height = settings.width_px, settings.height_px
    kind = rng.random()
    x, y, fill = 0, 0, 0
    if 0.52 <= kind < 0.7:
        x, y = int(width * rng.uniform(0.02, 0.1)), int(height * rng.uniform(0.02, 0.12))
    elif 0.7 <= kind < 0.82:
        y, fill = int(height * rng.uniform(0.05, 0.3)), int(rng.choice([0, 114]))
    elif kind >= 0.82:
        x, fill = int(width * rng.uniform(0.05, 0.2)), int(rng.choice([0, 114]))
    inner = replace(
        settings,
        width_px=width - 2 * x,
        height_px=height - 2 * y,
        min_height_px=settings.min_height_px * width / (width - 2 * x),
    )
    return x, y, fill, inner


def write_labelled(
    split: Path, name: str, image: Bytes, labels: Sequence[Label], quality: int
) -> None:
    """Write SPLIT/images/NAME.jpg and its label, the label last: it marks a finished pair."""
    data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    write_whole(split / 'images' / f'{name}.jpg', data.tobytes())
    class_ids, boxes = [label.class_id for label in labels], [label.xyxy_px for label in labels]
    rows = label_rows(class_ids, boxes, image.shape[1], image.shape[0])
    write_whole(split / 'labels' / f'{name}.txt', label_text(rows))


def positions_json(taken: DriveFrame) -> str:
    """Where the cones of a picture stand, as the messages of a drive; keys: names of its topics."""
    store = reader.bag_types()
    frame = Frame(taken.image, taken.stamp_ns, FRAME_IDS[taken.eye], 'the picture')
    messages = {
        'camera_info': reader.camera_info_message(store, frame, taken.info),
        'ground_truth_3d_optical': truth_message(store, taken, taken.eye),
        'ground_truth_3d': truth_message(store, taken, 'base'),
    }
    return to_json(messages)


def _write_picture(
    out: Path, settings: SimulateSettings, seed: int, positions: bool, place: tuple[str, int]
) -> None:
    """Render one picture into its place, split and index, unless it is there."""
    split, index = place
    name = f'{split}_{index:06d}'
    if (out / split / 'labels' / f'{name}.txt').exists():
        return
    taken = render_picture(settings, seed, split, index)
    if positions:
        write_whole(out / split / 'positions' / f'{name}.json', positions_json(taken))
    write_labelled(out / split, name, taken.image, taken.labels, taken.quality)


def write_dataset(
    out: Path,
    settings: SimulateSettings,
    seed: int,
    counts: dict[str, int],
    workers: int = 1,
    positions: bool = False,
) -> None:
    """Render OUT/{train,val,test}/{images,labels}, data.yaml and simulate.json.

    positions: OUT/SPLIT/positions/NAME.json says where the cones stand, see `positions_json`.
    Pictures that are there already are kept, so an interrupted run goes on where it stopped.
    Raises OutputError when OUT was rendered with other settings or another seed, SettingsError
    for errors of the rig, which a drive has only.
    """
    settings.rig.refuse_others((), 'a data set has one eye, which stands still')
    about = {
        'seed': seed,
        'renderer_version': RENDERER_VERSION,
        'settings': {name: value for name, value in asdict(settings).items() if name != 'rig'},
        'versions': {'numpy': np.__version__, 'opencv': cv2.__version__},
        **({'positions': True} if positions else {}),
    }
    record = out / 'simulate.json'
    if record.exists():
        before = json.loads(record.read_text(encoding='utf-8'))
        if changed := [key for key in {**about, **before} if before.get(key) != about.get(key)]:
            raise OutputError(
                f'{out} was rendered with another {", ".join(changed)}: '
                'choose an empty folder or delete this one'
            )
    for split, kind in product(SPLITS, ('images', 'labels')):
        (out / split / kind).mkdir(parents=True, exist_ok=True)
    write_json(record, about)
    write_data_yaml(out, SPLITS)
    places = [(split, index) for split in SPLITS for index in range(counts[split])]
    write = partial(_write_picture, out, settings, seed, positions)
    with contextlib.ExitStack() as stack:
        if workers <= 1:
            cv2.setNumThreads(1)
            written: Iterator[None] = map(write, places)
        else:
            # A fork of a process with threads, OpenCV's say, can hang.
            spawn = multiprocessing.get_context('spawn')
            pool = ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,))
            written = stack.enter_context(pool).map(write, places, chunksize=8)
        for _ in tqdm(written, total=len(places), unit='picture', desc='render'):
            pass
