"""The command `cone-training data`: each action lives in a module of its own."""

from __future__ import annotations

import argparse
import importlib

ACTIONS = {
    'fetch': ('training.data.fetch', 'download a known data set, whole or not at all'),
    'manifest': ('training.data.manifest', 'write or check the list of files with their hashes'),
    'verify': ('training.data.verify', 'every label line and every picture, before training'),
    'leaks': ('training.data.leaks', 'pictures that are alike, between and within data sets'),
    'gap': ('training.data.gap.command', 'how far apart two data sets are, and what that suggests'),
}
"""Action -> (module with add_arguments(parser) and run(args) -> int, one line of help).

The modules are imported to build the parsers: they import torch, if at all, inside functions.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser per action."""
    choices = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    for name, (module_name, summary) in ACTIONS.items():
        module = importlib.import_module(module_name)
        action = choices.add_parser(name, help=summary, description=summary)
        module.add_arguments(action)
        action.set_defaults(run_action=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action; returns the exit status."""
    return int(args.run_action(args))
