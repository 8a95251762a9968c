"""Two-stage training. The command and its name are settled; its work is not written yet."""

from __future__ import annotations

import argparse
import sys

from training.cli import main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = 'The campaign itself is not in this release; the command says so and exits 2.'


def run(args: argparse.Namespace) -> int:
    print(
        'cone-training two-stage: two-stage training is not in this release. '
        'What is: simulate, demo-model, export, judge.',
        file=sys.stderr,
    )
    return 2


if __name__ == '__main__':
    sys.exit(main(['two-stage', *sys.argv[1:]]))
