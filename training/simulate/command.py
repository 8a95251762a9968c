"""The command `cone-training simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cone_perception.errors import SettingsError
from cone_perception.files import read_yaml
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
    dataset.add_argument('--settings', type=Path, help='YAML file of settings')
    drive = commands.add_parser('drive', help='a drive as a rosbag2 with ground truth')
    drive.add_argument('--out', type=Path, required=True, help='bag folder to write, new')
    drive.add_argument('--seconds', type=float, default=10.0, help='length of the drive')
    drive.add_argument('--hz', type=float, default=15.0, help='pictures per second')
    drive.add_argument('--seed', type=int, default=0, help='same seed, same drive')
    drive.add_argument('--compressed', action='store_true', help='JPEG in CompressedImage')
    drive.add_argument('--stereo', action='store_true', help='both eyes, equal stamps')
    drive.add_argument('--settings', type=Path, help='YAML file of settings')


def read_settings(path: Path | None, scale: float) -> SimulateSettings:
    """Settings of a YAML or JSON file, or the defaults, with the picture size scaled.

    Raises SettingsError when the file cannot be read or says what is not known.
    """
    values: Any = {}
    if path is not None:
        values = read_yaml(path, SettingsError) or {}
    if not isinstance(values, dict):
        raise SettingsError(f'settings file {path} holds no mapping: write lines of `name: value`')
    settings = SimulateSettings.from_dict(values)
    size = {
        'width_px': round(settings.width_px * scale),
        'height_px': round(settings.height_px * scale),
    }
    return SimulateSettings.from_dict(values | size)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand; returns the exit status."""
    if args.what == 'dataset':
        from training.simulate.dataset import write_dataset

        settings = read_settings(args.settings, args.scale)
        counts = {'train': args.train, 'val': args.val, 'test': args.test}
        write_dataset(args.out, settings, args.seed, counts, args.workers)
        return 0
    from training.simulate.bag import write_drive

    settings = read_settings(args.settings, 1.0)
    write_drive(args.out, settings, args.seed, args.seconds, args.hz, args.compressed, args.stereo)
    return 0
