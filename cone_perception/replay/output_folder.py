"""A command's folder for its results: only what is its own is ever replaced; names of several."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cone_perception.errors import OutputError

REPLAY_MARK = '.cone_perception_replay'
"""A file that says that a folder holds a replay's results."""


def claim_folder(
    out: Path, mark: str, left_by_earlier_runs: Sequence[str], source: Path | None
) -> None:
    """Make `out` a folder with `log/` in it, without what an earlier run left there.

    mark: name of a file that says whose folder it is. source: what the command reads, if anything.
    Raises OutputError when it holds the source, or anything that is not the command's.
    """
    if source is not None and out.resolve() in (source.resolve(), *source.resolve().parents):
        raise OutputError(f'{out} holds {source}: give another --out.')
    try:
        if out.exists() and not (out / mark).exists() and any(out.iterdir()):
            raise OutputError(f'{out} holds other files: give a new or an empty folder as --out.')
        for name in (*left_by_earlier_runs, 'log'):
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        (out / 'log').mkdir(parents=True)
        (out / mark).touch()
    except OSError as error:
        raise OutputError(f'{out} cannot be written: {error}. Give another --out.') from error


def distinct_names(paths: Sequence[Path], between: str) -> list[str]:
    """Name each path by its last part, with its parents' where two are equal.

    Paths that are the same get a number in front.
    """
    parts = [path.resolve().parts[1:] for path in paths]
    depth = [1] * len(paths)
    while True:
        names = [between.join(each[-n:]) for each, n in zip(parts, depth, strict=True)]
        times = Counter(names)
        if max(times.values(), default=1) == 1:
            return names
        deeper = [
            min(n + (times[name] > 1), len(each))
            for name, n, each in zip(names, depth, parts, strict=True)
        ]
        if deeper == depth:
            return [f'{number}{between}{name}' for number, name in enumerate(names, 1)]
        depth = deeper
