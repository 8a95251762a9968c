"""What a replay writes into its folder; names of several folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

REPLAY_MARK = '.cone_perception_replay'
"""A file that says that a folder holds a replay's results."""

REPLAY_FILES = ('result.json', 'report.html', 'annotated.mp4', 'passes', 'overhead', 'log')
"""A replay's own, beside the mark."""


def distinct_names(paths: Sequence[Path], between: str) -> list[str]:
    """Name each path by its last part, with its parents' where two are equal.

    Paths that are the same get a number in front.
    """
    parts = [path.resolve().parts[1:] for path in paths]
    names = []
    for each in parts:
        alone = (n for n in range(1, len(each)) if sum(e[-n:] == each[-n:] for e in parts) == 1)
        names.append(between.join(each[-next(alone, len(each)) :]))
    if len(set(names)) < len(names):
        return [f'{number}{between}{name}' for number, name in enumerate(names, 1)]
    return names
