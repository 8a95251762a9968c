"""Two replays -> what they differ in, and which figures cannot be compared for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cone_perception.replay.figures.result import ReplayResult

RUN_SCATTER = 0.05
"""Standard deviation of a time or a rate from run to run, as a share of it, where nothing shows it:
an assumption."""

FEW_FRAMES = 300
"""Below, the 99th percentile hangs on fewer than three frames."""

MACHINE = ('processor', 'cores_usable', 'gpu', 'governor')
SOFTWARE = ('driver', 'cuda', 'kernel', 'python', 'ros_distro', 'rmw', 'versions', 'git_commit')
ACCURACY = ('precision_', 'recall_', 'map50_', 'ap50_')
ANSWERS = (*ACCURACY, 'flicker_', 'detections_per_frame', 'agreement_')
"""Figures of what was answered. The others tell of time, loss and load."""

CONSEQUENCES = {
    'all': 'nothing is comparable',
    'times': 'latencies, losses and load are not comparable',
    'answers': 'accuracy is not comparable',
    'accuracy': 'accuracy is not comparable',
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that two runs differ in. stops: the figures that are not comparable for it."""

    what: str
    differs: str
    stops: Literal['all', 'times', 'answers', 'accuracy']

    @property
    def note(self) -> str:
        """A sentence for the reader."""
        return f'{self.what.capitalize()} ({self.differs}): {CONSEQUENCES[self.stops]}.'

    def covers(self, figure: str) -> bool:
        """The figure of this name is not comparable."""
        hangs_on = {'all'}
        if figure.startswith(ACCURACY):
            hangs_on.add('accuracy')
        if figure.startswith(ANSWERS):
            hangs_on.add('answers')
        # A frame that is lost is a miss in `_sent`: it hangs on time too.
        if not figure.startswith(ANSWERS) or '_sent' in figure:
            hangs_on.add('times')
        return self.stops in hangs_on


def find_obstacles(a: ReplayResult, b: ReplayResult) -> list[Obstacle]:
    """Find all that makes figures of two results incomparable."""
    found: list[Obstacle] = []
    if a.bag.get('sha256') != b.bag.get('sha256'):
        found.append(Obstacle('not the same bag', _both(a.bag, b.bag, 'path'), 'all'))
    machine = [what for what in MACHINE if a.host.get(what) != b.host.get(what)]
    if machine:
        differs = '; '.join(f'{what}: {_both(a.host, b.host, what)}' for what in machine)
        found.append(Obstacle('not the same machine', differs, 'times'))
    for what, title in (('through', 'way'), ('pace', 'pace'), ('jobs', 'number of jobs at once')):
        if a.configuration.get(what) != b.configuration.get(what):
            differs = _both(a.configuration, b.configuration, what)
            if what == 'pace':
                differs = f'{pace_text(a.configuration)} and {pace_text(b.configuration)}'
            found.append(Obstacle(f'not the same {title}', differs, 'times'))
    if a.model.get('class_names') != b.model.get('class_names'):
        differs = _both(a.model, b.model, 'class_names')
        found.append(Obstacle('not the same classes', differs, 'answers'))
    elif a.truth is not None and b.truth is not None and _truth_differs(a, b):
        found.append(Obstacle('not the same truth', 'labels differ', 'accuracy'))
    return found


def find_warnings(a: ReplayResult, b: ReplayResult, names: tuple[str, str]) -> Iterator[str]:
    """Find what limits the comparison without stopping a figure, a sentence each."""
    for name, result in zip(names, (a, b), strict=True):
        frames = len(result.frames)
        if result.interrupted:
            yield f'{name} was interrupted: it saw {frames} frames.'
        elif frames < FEW_FRAMES:
            yield f'{name} has {frames} frames: its 99th percentiles hang on one or two of them.'
    single = [n for n, result in zip(names, (a, b), strict=True) if len(result.passes) < 2]
    if single:
        yield (
            f'One pass of {" and of ".join(single)}: how much latency, loss and load differ from '
            f'run to run is not known, {100 * RUN_SCATTER:g} % is assumed. --repeat 5 measures it.'
        )
    jobs = a.configuration.get('jobs') or 1
    if jobs != 1 and jobs == b.configuration.get('jobs'):
        yield f'{jobs} replays shared the machine: latencies are those of a busy one.'
    ours, theirs = (each.configuration.get('settings') or {} for each in (a, b))
    changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if changed:
        differs = '; '.join(f'{key}: {_both(ours, theirs, key)}' for key in changed)
        yield f'Different settings ({differs}).'
    if a.model.get('thresholds') != b.model.get('thresholds') or 'thresholds' in changed:
        yield (
            'The thresholds differ: mAP50 is of what was published, and ends where a threshold '
            'cuts it off.'
        )
    changed = [what for what in SOFTWARE if a.host.get(what) != b.host.get(what)]
    if changed:
        yield f'Different software: {", ".join(changed)}.'
    if a.host.get('git_dirty') or b.host.get('git_dirty'):
        yield 'The code was changed since its commit.'


def pace_text(configuration: Mapping[str, Any]) -> str:
    """Tell when the pictures were sent, in a few words; '' where it is not known."""
    pace = configuration.get('pace')
    if not isinstance(pace, Mapping):
        return ''
    rate = pace.get('rate', 1.0)
    as_recorded = 'as recorded' if rate == 1 else f'{rate:g} times as fast as recorded'
    return {
        'hz': f'each camera at {pace.get("hz", 0):g} Hz',
        'fast': f'as fast as possible, {pace.get("in_flight")} in flight',
    }.get(str(pace.get('kind')), as_recorded)


def _truth_differs(a: ReplayResult, b: ReplayResult) -> bool:
    ours, theirs = a.truth or {}, b.truth or {}
    return any(
        not np.array_equal(ours[key].xyxy_px, theirs[key].xyxy_px)
        or not np.array_equal(ours[key].class_id, theirs[key].class_id)
        for key in ours.keys() & theirs.keys()
    )


def _both(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> str:
    return f'{_short(a.get(what))} and {_short(b.get(what))}'


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ' '.join(f'{key} {entry}' for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ', '.join(map(str, value)) or 'none'
    return str(value) or 'none'
