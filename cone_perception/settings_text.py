"""DetectorSettings as text: for --help, and as the settings file. Knows no ROS.

`python -m cone_perception.settings_text > config/detector.yaml` writes the file anew.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import Field, fields
from typing import Any, get_args, get_type_hints

from cone_perception.settings import DetectorSettings


def settings_help() -> str:
    """Every setting with its type, range and default, one below the other."""
    kinds = get_type_hints(DetectorSettings)
    lines = ['settings (ROS parameters; those marked live can change while the node runs):']
    for entry in fields(DetectorSettings):
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        about = f'{_kind_and_range(entry, kinds[entry.name])}, default {default!r}'
        about += ', live' if entry.metadata['live'] else ''
        lines += [f'  {entry.name} ({about})', f'      {entry.metadata["description"]}']
    return '\n'.join(lines)


def _kind_and_range(entry: Field[Any], kind: object) -> str:
    low, high = entry.metadata['low'], entry.metadata['high']
    return _kind_name(kind) + (f', {low:g} to {high:g}' if low is not None else '')


def _kind_name(kind: object) -> str:
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    parts = get_args(kind)
    return f'list of {parts[0].__name__}' if Ellipsis in parts else ' | '.join(parts)


def settings_yaml() -> str:
    """Every setting with its default, as a ROS parameter file for a node of any name."""
    kinds = get_type_hints(DetectorSettings)
    lines = [
        '# Every setting with its default, written by: python -m cone_perception.settings_text',
        "# [] is an empty list; in a launch file and with `ros2 param set`, write it as [''].",
        '/**:',
        '  ros__parameters:',
    ]
    for entry in fields(DetectorSettings):
        about = f'{entry.metadata["description"]} ({_kind_and_range(entry, kinds[entry.name])}'
        about += ', live)' if entry.metadata['live'] else ')'
        lines += [f'    # {line}' for line in textwrap.wrap(about, 90)]
        lines.append(f'    {entry.name}: {json.dumps(entry.default)}')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    print(settings_yaml(), end='')
