"""The shipped demo model's training: rendered pictures -> crops -> weights.

The crops' scale is the runtime's: the network sees a 1280x720 picture at 640x360.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from cone_perception.arguments import add_fields, option, read_fields
from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.layout import read_layout, write_data_yaml
from cone_perception.errors import SourceError
from cone_perception.files import read_json, write_json
from training.simulate.bag import drive_frames
from training.simulate.dataset import write_labelled
from training.simulate.scene import SimulateSettings
from training.stage.training_set import CropRules, write_crops


@dataclass(frozen=True, slots=True)
class Drives:
    """Rendered drives that no training saw: each seed has its own track, textures and light."""

    seed: int = option(900, 'of the first drive, the others follow (900)')
    count: int = option(4, 'drives (4)')
    seconds: float = option(20.0, 'length of a drive (20)')
    hz: float = option(2.0, 'pictures per second (2)')


@dataclass(frozen=True, slots=True)
class ClockedRun:
    """One training run."""

    model: str = option('yolo26n.yaml', 'architecture (.yaml) or weights to go on from (.pt)')
    minutes: float = option(90.0, 'training time (90)')
    batch: int = option(16, 'pictures per step (16)')
    lr: float = option(0.002, 'peak learning rate of AdamW (0.002)')
    final_lr: float = option(0.01, 'learning rate at the end as a share of the peak (0.01)')
    mosaic: float = option(0.5, 'its probability (0.5)')
    seed: int = option(0, 'of everything that is drawn by chance (0)')
    workers: int = option(1, 'processes that prepare pictures beside the training (1)')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the steps crops, drives and train."""
    steps = parser.add_subparsers(dest='step', required=True)
    crops = steps.add_parser('crops', help='cut rendered YOLO data sets into training crops')
    crops.add_argument('--data', type=Path, nargs='+', required=True, help='rendered data sets')
    drives = steps.add_parser('drives', help='render drives as a YOLO data set to judge on')
    train = steps.add_parser('train', help='train on crops; started again, it goes on')
    train.add_argument('--data', type=Path, required=True, help='folder that `crops` wrote')
    for step, options in ((crops, CropRules), (drives, Drives), (train, ClockedRun)):
        step.add_argument('--out', type=Path, required=True, help='folder to write')
        add_fields(step, options)


def run(args: argparse.Namespace) -> int:
    """Run a step; prints what it made."""
    if args.step == 'crops':
        counts = cut_datasets(args.data, args.out, read_fields(CropRules, args))
        print(', '.join(f'{split}: {count} crops' for split, count in counts.items()))
    elif args.step == 'drives':
        print(f'{write_drives(args.out, read_fields(Drives, args))} pictures')
    else:
        print(train(args.data, args.out, read_fields(ClockedRun, args)))
    return 0


def cut_datasets(datasets: list[Path], out: Path, rules: CropRules) -> dict[str, int]:
    """Cut the train and val pictures of rendered data sets into one data set of crops.

    Returns crops per split. Raises SourceError when a data set has no pictures or other classes.
    """
    for data in datasets:
        if (names := read_layout(data).names) != CLASS_NAMES:
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
    write_data_yaml(out, ('train', 'val'))
    return counts


def write_drives(out: Path, drives: Drives) -> int:
    """Render drives into the split `test` of a YOLO data set. Returns the number of pictures."""
    written = 0
    for seed in range(drives.seed, drives.seed + drives.count):
        drive = drive_frames(SimulateSettings(), seed, drives.seconds, drives.hz)
        for index, frame in enumerate(drive):
            write_labelled(out / 'test', f'{seed}_{index:04d}', frame.image, frame.labels, 95)
            written += 1
    write_data_yaml(out, ['test'])
    return written


def train(data: Path, out: Path, recipe: ClockedRun) -> Path:
    """Train, or go on with the run that lies in `out`. Returns the weights' path.

    Raises SourceError when data or weights are missing, or `out` holds a run of another recipe.
    """
    record = out / 'recipe.json'
    wanted = {'data': str(data.resolve()), **asdict(recipe)}
    if record.is_file() and (found := read_json(record)) != wanted:
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
    write_json(record, wanted)

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
