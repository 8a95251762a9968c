"""The command `cone-training data`: each action lives in a module of its own."""

from __future__ import annotations

import argparse

from training.data import fetch, leaks, manifest, verify
from training.data.gap import command as gap

ACTIONS = {
    'fetch': (fetch, 'download a known data set, whole or not at all'),
    'manifest': (manifest, 'write or check the list of files with their hashes'),
    'verify': (verify, 'every label line and every picture, before training'),
    'leaks': (leaks, 'pictures that are alike, between and within data sets'),
    'gap': (gap, 'how far apart two data sets are, and what that suggests'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser per action."""
    choices = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    for name, (module, summary) in ACTIONS.items():
        action = choices.add_parser(name, help=summary, description=summary)
        module.add_arguments(action)
        action.set_defaults(run_action=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action; returns the exit status."""
    return int(args.run_action(args))
