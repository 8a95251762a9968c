"""The command `cone-training simulate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from training.simulate.settings import SimulateSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Subcommands `dataset` and `drive`."""
    commands = parser.add_subparsers(dest='what', required=True)
    dataset = commands.add_parser('dataset', help='labelled pictures in YOLO layout')
    dataset.add_argument('--out', type=Path, required=True, help='folder to write')
    dataset.add_argument('--train', type=int, default=0, help='training pictures')
    dataset.add_argument('--val', type=int, default=0, help='validation pictures')
    dataset.add_argument('--test', type=int, default=0, help='test pictures')
    dataset.add_argument('--seed', type=int, default=0, help='same seed, same pictures')
    dataset.add_argument('--workers', type=int, default=1, help='processes')
    dataset.add_argument(
        '--scale', type=float, default=1.0, help='picture size relative to the settings'
    )
    dataset.add_argument('--settings', type=Path, help='JSON file of settings')
    drive = commands.add_parser('drive', help='a drive as a rosbag2 with ground truth')
    drive.add_argument('--out', type=Path, required=True, help='bag folder to write, new')
    drive.add_argument('--seconds', type=float, default=10.0, help='length of the drive')
    drive.add_argument('--hz', type=float, default=15.0, help='pictures per second')
    drive.add_argument('--seed', type=int, default=0, help='same seed, same drive')
    drive.add_argument('--compressed', action='store_true', help='JPEG in CompressedImage')
    drive.add_argument('--stereo', action='store_true', help='both eyes, equal stamps')
    drive.add_argument('--settings', type=Path, help='JSON file of settings')


def read_settings(path: Path | None, scale: float) -> SimulateSettings:
    """Settings of a JSON file, or the defaults, with the picture size scaled."""
    values = {} if path is None else json.loads(path.read_text(encoding='utf-8'))
    settings = SimulateSettings.from_dict(values)
    values['width_px'] = round(settings.width_px * scale)
    values['height_px'] = round(settings.height_px * scale)
    return SimulateSettings.from_dict(values)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand; returns the exit status."""
    try:
        settings = read_settings(getattr(args, 'settings', None), getattr(args, 'scale', 1.0))
        if args.what == 'dataset':
            from training.simulate.dataset import write_dataset

            counts = {'train': args.train, 'val': args.val, 'test': args.test}
            write_dataset(args.out, settings, args.seed, counts, args.workers)
        else:
            from training.simulate.bag import write_drive

            write_drive(
                args.out, settings, args.seed, args.seconds, args.hz, args.compressed, args.stereo
            )
    except (OSError, ValueError) as error:
        print(f'simulate: {error}', file=sys.stderr)
        return 2
    return 0
