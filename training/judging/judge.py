"""`cone-training judge`: the old name of `evaluate --operating-point card`, for one release."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cone_perception.files import write_json
from cone_perception.model_card import shipped_bundle
from training.judging.evaluate_command import add_options, tabulate
from training.judging.page import figure_blocks, print_blocks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `evaluate` takes, but --model for the bundle and --json for a file."""
    parser.add_argument(
        '--model', dest='weights', type=Path, default=shipped_bundle(), help='bundle to judge'
    )
    add_options(parser)
    parser.add_argument('--json', type=Path, help='write the figures here')
    parser.set_defaults(operating_point='card')


def run(args: argparse.Namespace) -> int:
    print(
        'cone-training judge is now `cone-training evaluate MODEL --operating-point card`; '
        'this name goes with the next release.',
        file=sys.stderr,
    )
    found = tabulate(args)
    print_blocks(figure_blocks(**found))
    if args.json:
        write_json(args.json, found)
    return 0
