"""Placeholder until the download is committed."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name')


def run(args: argparse.Namespace) -> int:
    raise NotImplementedError
