"""The shipped demo model's training: rendered pictures -> crops -> weights.

The crops' scale is the runtime's: the network sees a 1280x720 picture at 640x360.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import yaml

from cone_perception.classes import CLASS_NAMES
from cone_perception.errors import SourceError
from training.simulate.bag import drive_frames
from training.simulate.dataset import label_lines
from training.simulate.settings import SimulateSettings
from training.stage.crops import CropRules, write_crops


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
        rules = CropRules(**_field_values(args, CropRules))
        counts = cut_datasets(args.data, args.out, rules)
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


def cut_datasets(datasets: list[Path], out: Path, rules: CropRules) -> dict[str, int]:
    """Cut the train and val pictures of rendered data sets into one data set of crops.

    Returns crops per split. Raises SourceError when a data set has no pictures or other classes.
    """
    for data in datasets:
        names = yaml.safe_load((data / 'data.yaml').read_text(encoding='utf-8'))['names']
        if list(names.values() if isinstance(names, dict) else names) != list(CLASS_NAMES):
            raise SourceError(f'{data}/data.yaml names {names}, not {CLASS_NAMES}: render it here.')
    counts = {}
    for split in ('train', 'val'):
        images = []
        for data in datasets:
            found = sorted((data / split / 'images').glob('*.*'))
            if not found:
                raise SourceError(f'{data / split}/images holds no pictures. Render some first.')
            images += found
        counts[split] = write_crops(images, out / split, rules)
    layout = {'path': str(out.resolve()), 'train': 'train/images', 'val': 'val/images'}
    names = dict(enumerate(CLASS_NAMES))
    (out / 'data.yaml').write_text(yaml.safe_dump({**layout, 'names': names}), encoding='utf-8')
    return counts


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
    from training.demo_model import clocked_trainer

    overrides = {
        'data': str(data / 'data.yaml'),
        'model': recipe.model,
        'save_dir': str(out),
        'imgsz': CropRules().size_px,
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
    schedule = clocked_trainer.Schedule(recipe.minutes * 60, recipe.final_lr)
    return clocked_trainer.train(overrides, schedule, recipe.workers, out)
