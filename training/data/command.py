"""The command `cone-training data`: each action lives in a module of its own."""

from __future__ import annotations

import argparse
import importlib
import sys

ACTIONS = {
    'fetch': ('training.data.fetch', 'download a known data set, whole or not at all'),
    'manifest': ('training.data.manifest', 'write or check the list of files with their hashes'),
    'verify': ('training.data.verify', 'every label line and every picture, before training'),
}
"""Action -> (module with add_arguments(parser) and run(args) -> int, one line of help)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser per action; only the module of the action that was asked for is imported."""
    choices = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    words = set(sys.argv[1:])
    for name, (module_name, summary) in ACTIONS.items():
        action = choices.add_parser(name, help=summary, description=summary)
        if name in words:
            importlib.import_module(module_name).add_arguments(action)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action; returns the exit status."""
    return int(importlib.import_module(ACTIONS[args.action][0]).run(args))
