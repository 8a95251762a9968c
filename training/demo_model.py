"""The shipped demo model's training: rendered pictures -> crops -> weights.

The network sees a 1280x720 picture at 640x360. Training on whole pictures of that size costs 2.3
times as much as on 320x320 crops of them, and most of it is sky: so crops, at the runtime's scale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from cone_perception.errors import SourceError
from cone_perception.preprocess import Letterbox
from cone_perception.types import Float32, UInt8
from training.simulate.bag import drive_frames
from training.simulate.dataset import label_lines
from training.simulate.settings import SimulateSettings
from training.simulate.track import CLASS_NAMES

NETWORK_WIDTH_PX = 640
CROP_PX = 320


@dataclass(frozen=True, slots=True)
class CropRules:
    """How pictures are cut.

    per_picture: crops of each picture; every second one is aimed at a cone.
    visible: least share of a box's area inside the crop, else the box is dropped.
    height_px: least height of a clipped box, in network pixels.
    seed: of the crops' positions.
    """

    per_picture: int = 2
    visible: float = 0.3
    height_px: float = 4.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Drives:
    """Rendered drives that no training saw: each seed has its own track, textures and light.

    seed: of the first drive, the others follow. count: of drives. hz: pictures per second.
    """

    seed: int = 900
    count: int = 4
    seconds: float = 20.0
    hz: float = 2.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run.

    model: architecture (.yaml) or weights to go on from (.pt).
    minutes: training time. batch: pictures per step. lr: peak learning rate of AdamW.
    final_lr: learning rate at the end as a share of the peak. mosaic: its probability.
    workers: processes that prepare pictures beside the training.
    """

    model: str = 'yolo26n.yaml'
    minutes: float = 90.0
    batch: int = 16
    lr: float = 0.002
    final_lr: float = 0.01
    mosaic: float = 0.5
    seed: int = 0
    workers: int = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest='step', required=True)
    crops = steps.add_parser('crops', help='cut rendered YOLO data sets into training crops')
    crops.add_argument('--data', type=Path, nargs='+', required=True, help='rendered data sets')
    crops.add_argument('--out', type=Path, required=True)
    _add_fields(crops, CropRules())
    drives = steps.add_parser('drives', help='render drives as a YOLO data set to judge on')
    drives.add_argument('--out', type=Path, required=True)
    _add_fields(drives, Drives())
    train = steps.add_parser('train', help='train on crops; started again, it goes on')
    train.add_argument('--data', type=Path, required=True, help='folder that `crops` wrote')
    train.add_argument('--out', type=Path, required=True)
    _add_fields(train, Recipe())


def run(args: argparse.Namespace) -> int:
    if args.step == 'crops':
        counts = write_crops(args.data, args.out, CropRules(**_field_values(args, CropRules)))
        print(', '.join(f'{split}: {count} crops' for split, count in counts.items()))
    elif args.step == 'drives':
        print(f'{write_drives(args.out, Drives(**_field_values(args, Drives)))} pictures')
    else:
        print(train(args.data, args.out, Recipe(**_field_values(args, Recipe))))
    return 0


def _add_fields(parser: argparse.ArgumentParser, defaults: CropRules | Drives | Recipe) -> None:
    for name, value in asdict(defaults).items():
        flag = f'--{name.replace("_", "-")}'
        parser.add_argument(flag, type=type(value), default=value, help=f'default: {value}')


def _field_values(
    args: argparse.Namespace, of: type[CropRules] | type[Drives] | type[Recipe]
) -> dict[str, Any]:
    return {field.name: getattr(args, field.name) for field in fields(of)}


def write_crops(datasets: list[Path], out: Path, rules: CropRules) -> dict[str, int]:
    """Cut the train and val pictures of rendered data sets into one data set of crops.

    Returns crops per split. Raises SourceError when a data set has no pictures or other classes.
    """
    random = np.random.default_rng(rules.seed)
    counts = dict.fromkeys(('train', 'val'), 0)
    for data in datasets:
        names = yaml.safe_load((data / 'data.yaml').read_text(encoding='utf-8'))['names']
        if list(names.values() if isinstance(names, dict) else names) != list(CLASS_NAMES):
            raise SourceError(f'{data}/data.yaml names {names}, not {CLASS_NAMES}: render it here.')
        for split in counts:
            images = sorted((data / split / 'images').glob('*.*'))
            if not images:
                raise SourceError(f'{data / split}/images holds no pictures. Render some first.')
            for folder in ('images', 'labels'):
                (out / split / folder).mkdir(parents=True, exist_ok=True)
            for path in images:
                picture, labels = _at_network_scale(path)
                for crop, inside in crops_of(picture, labels, rules, random):
                    name = f'{counts[split]:06d}'
                    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
                    cv2.imwrite(str(out / split / 'images' / f'{name}.jpg'), crop, quality)
                    _write_labels(out / split / 'labels' / f'{name}.txt', inside)
                    counts[split] += 1
    names = dict(enumerate(CLASS_NAMES))
    layout = {'path': str(out.resolve()), 'train': 'train/images', 'val': 'val/images'}
    (out / 'data.yaml').write_text(yaml.safe_dump({**layout, 'names': names}), encoding='utf-8')
    return counts


def crops_of(
    picture: UInt8, labels: Float32, rules: CropRules, random: np.random.Generator
) -> Iterator[tuple[UInt8, Float32]]:
    """Cut square crops out of one picture at network scale.

    labels: (N, 5) class, left, top, right, bottom in pixels; the crops' labels are the same.
    """
    height, width = picture.shape[:2]
    room = np.array([max(width - CROP_PX, 0), max(height - CROP_PX, 0)])
    for index in range(rules.per_picture):
        corner = random.integers(0, room + 1)
        if index % 2 == 0 and len(labels):
            box = labels[random.integers(len(labels))]
            aim = (box[1:3] + box[3:5]) / 2 - random.uniform(0.2, 0.8, 2) * CROP_PX
            corner = np.clip(aim, 0, room).astype(int)
        left, top = (int(value) for value in corner)
        crop = np.full((CROP_PX, CROP_PX, 3), 114, np.uint8)
        part = picture[top : top + CROP_PX, left : left + CROP_PX]
        crop[: part.shape[0], : part.shape[1]] = part
        yield crop, clip_boxes(labels, left, top, rules)


def clip_boxes(labels: Float32, left_px: int, top_px: int, rules: CropRules) -> Float32:
    """Labels of the crop with this corner: moved, clipped, and dropped where little is left."""
    moved = labels - np.array([0, left_px, top_px, left_px, top_px], np.float32)
    clipped = moved.copy()
    clipped[:, 1:] = np.clip(moved[:, 1:], 0, CROP_PX)
    visible = _area(clipped) / np.maximum(_area(moved), 1e-6)
    tall_px = clipped[:, 4] - clipped[:, 2]
    selected: Float32 = clipped[(visible >= rules.visible) & (tall_px >= rules.height_px)]
    return selected


def write_drives(out: Path, drives: Drives) -> int:
    """Render drives into the split `test` of a YOLO data set. Returns the number of pictures."""
    for folder in ('images', 'labels'):
        (out / 'test' / folder).mkdir(parents=True, exist_ok=True)
    written = 0
    for seed in range(drives.seed, drives.seed + drives.count):
        for index, frame in enumerate(
            drive_frames(SimulateSettings(), seed, drives.seconds, drives.hz)
        ):
            name = f'{seed}_{index:04d}'
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            cv2.imwrite(str(out / 'test' / 'images' / f'{name}.jpg'), frame.image, quality)
            height, width = frame.image.shape[:2]
            text = label_lines(frame.labels, width, height)
            (out / 'test' / 'labels' / f'{name}.txt').write_text(text, encoding='utf-8')
            written += 1
    layout = {'path': '.', 'test': 'test/images', 'names': dict(enumerate(CLASS_NAMES))}
    (out / 'data.yaml').write_text(yaml.safe_dump(layout), encoding='utf-8')
    return written


def train(data: Path, out: Path, recipe: Recipe) -> Path:
    """Train, or go on with the run that lies in `out`. Returns the weights' path.

    Raises SourceError when data or weights are missing, or `out` holds a run of another recipe.
    """
    record = out / 'recipe.json'
    wanted = {'data': str(data.resolve()), **asdict(recipe)}
    if record.is_file() and (found := json.loads(record.read_text())) != wanted:
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        raise SourceError(
            f'{record} has another {", ".join(changed)} than asked for. '
            'Give the same arguments to go on with that run, or another --out.'
        )
    goes_on = recipe.model.endswith('.pt')
    for path in [data / 'data.yaml', *([Path(recipe.model)] if goes_on else [])]:
        if not path.is_file():  # Ultralytics would look for it on the network
            raise SourceError(f'{path} does not exist. Give a path that does.')
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(wanted, indent=2) + '\n', encoding='utf-8')

    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from training import cpu_trainer

    overrides = {
        'data': str(data / 'data.yaml'),
        'model': recipe.model,
        'save_dir': str(out),
        'imgsz': CROP_PX,
        'batch': recipe.batch,
        'nbs': recipe.batch,  # one optimizer step per batch
        'optimizer': 'AdamW',  # `auto` would ignore lr0
        'lr0': recipe.lr,
        'momentum': 0.9,
        'weight_decay': 0.01,
        'warmup_epochs': 0.0,  # the schedule warms up, biases included
        'mosaic': recipe.mosaic,
        'close_mosaic': 0,  # the schedule closes it
        'scale': 0.5,
        'hsv_h': 0.015,
        'hsv_s': 0.6,
        'hsv_v': 0.4,
        'seed': recipe.seed,
        'cache': 'ram',
        'device': 'cpu',
        'amp': False,  # the loss uses bfloat16 by itself
        'deterministic': False,
        'pretrained': goes_on,
    }
    schedule = cpu_trainer.Schedule(recipe.minutes * 60, recipe.final_lr)
    return cpu_trainer.train(overrides, schedule, recipe.workers, out)


def _at_network_scale(image: Path) -> tuple[UInt8, Float32]:
    """One picture as the network sees it, without the grey border, and its labels in pixels."""
    source = cv2.imread(str(image), cv2.IMREAD_COLOR)
    if source is None:
        raise SourceError(f'{image} cannot be decoded as a picture. Render the data set again.')
    height = max(1, round(source.shape[0] * NETWORK_WIDTH_PX / source.shape[1]))
    picture = np.empty((height, NETWORK_WIDTH_PX, 3), np.uint8)
    Letterbox(source.shape[0], source.shape[1], height, NETWORK_WIDTH_PX).apply(source, picture)
    labels = image.parents[1] / 'labels' / f'{image.stem}.txt'
    text = labels.read_text(encoding='utf-8') if labels.is_file() else ''
    rows = np.array([line.split() for line in text.splitlines()], np.float32).reshape(-1, 5)
    size = np.array([NETWORK_WIDTH_PX, height], np.float32)
    centre, half = rows[:, 1:3] * size, rows[:, 3:5] * size / 2
    return picture, np.concatenate([rows[:, :1], centre - half, centre + half], axis=1)


def _write_labels(path: Path, labels: Float32) -> None:
    centre = (labels[:, 1:3] + labels[:, 3:5]) / 2 / CROP_PX
    size = (labels[:, 3:5] - labels[:, 1:3]) / CROP_PX
    lines = [
        f'{int(class_id)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n'
        for class_id, (x, y), (w, h) in zip(labels[:, 0], centre, size, strict=True)
    ]
    path.write_text(''.join(lines), encoding='utf-8')


def _area(labels: Float32) -> Float32:
    area: Float32 = (labels[:, 3] - labels[:, 1]) * (labels[:, 4] - labels[:, 2])
    return area


if __name__ == '__main__':
    from training.cli import main

    sys.exit(main(['demo-model', *sys.argv[1:]]))
