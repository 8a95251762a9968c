"""A command's folder for its results: only what is its own is ever replaced; names of several."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cone_perception.errors import OutputError, told_as

REPLAY_MARK = '.cone_perception_replay'
"""A file that says that a folder holds a replay's results."""

REPLAY_FILES = ('result.json', 'report.html', 'annotated.mp4', 'passes', 'overhead')
"""A replay's own, beside the mark and the logs."""


def claim_folder(
    out: Path, mark: str, left_by_earlier_runs: Sequence[str], source: Path | None
) -> None:
    """Make `out` a folder with `log/` in it, without what an earlier run left there.

    mark: name of a file that says whose folder it is. source: what the command reads, if anything.
    Raises OutputError when it holds the source, or anything that is not the command's.
    """
    if source is not None and out.resolve() in (source.resolve(), *source.resolve().parents):
        raise OutputError(f'{out} holds {source}: give another --out.')
    with told_as(OutputError, f'{out} cannot be written', advice='Give another --out.'):
        if out.exists() and not (out / mark).exists() and any(out.iterdir()):
            raise OutputError(f'{out} holds other files: give a new or an empty folder as --out.')
        for name in (*left_by_earlier_runs, 'log'):
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        (out / 'log').mkdir(parents=True)
        (out / mark).touch()


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
