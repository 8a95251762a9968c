"""The command `cone-training simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Subcommands `dataset` and `drive`."""
    commands = parser.add_subparsers(dest='what', required=True)
    dataset = commands.add_parser('dataset', help='labelled pictures in YOLO layout')
    dataset.add_argument('--out', type=Path, required=True, help='folder to write')
    for split, meaning in (('train', 'training'), ('val', 'validation'), ('test', 'test')):
        dataset.add_argument(f'--{split}', type=int, default=0, help=f'{meaning} pictures')
    dataset.add_argument('--workers', type=int, default=1, help='processes')
    scale = 'picture size relative to the settings'
    dataset.add_argument('--scale', type=float, default=1.0, help=scale)
    positions = 'where the cones stand, in metres, as positions/NAME.json (3 kB a cone)'
    dataset.add_argument('--positions', action='store_true', help=positions)
    drive = commands.add_parser('drive', help='a drive as a rosbag2 with ground truth')
    drive.add_argument('--out', type=Path, required=True, help='bag folder to write, new')
    drive.add_argument('--seconds', type=float, default=10.0, help='length of the drive')
    drive.add_argument('--hz', type=float, default=15.0, help='pictures per second')
    drive.add_argument('--compressed', action='store_true', help='JPEG in CompressedImage')
    drive.add_argument('--stereo', action='store_true', help='both eyes, equal stamps')
    for command, made in ((dataset, 'pictures'), (drive, 'drive')):
        command.add_argument('--seed', type=int, default=0, help=f'same seed, same {made}')
        command.add_argument('--settings', type=Path, help='YAML file of settings')


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand; returns the exit status."""
    from training.simulate.bag import write_drive
    from training.simulate.dataset import write_dataset
    from training.simulate.scene import read_settings

    if args.what == 'dataset':
        counts = {'train': args.train, 'val': args.val, 'test': args.test}
        settings = read_settings(args.settings, args.scale)
        write_dataset(args.out, settings, args.seed, counts, args.workers, args.positions)
    else:
        settings, drive = read_settings(args.settings), (args.seconds, args.hz)
        write_drive(args.out, settings, args.seed, *drive, args.compressed, args.stereo)
    return 0
