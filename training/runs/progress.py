"""Tells how far a campaign is, for its log and for `cone-training status`."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.runs.folder import CampaignFolder, State, Step
from training.runs.record import MAP50, Columns, epoch_seconds, read_results


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """Place of a campaign among its steps, and the time that is left.

    step: id of the one that runs, or is next; '' when none is left. place, steps: its place among
    all. epoch, epochs: finished and planned, of a training. map50, best_map50: in validation, as
    Ultralytics reports it after each epoch. stage_left_s, left_s: until the stage, until the
    campaign is done, if no patience runs out; None: not known yet.
    """

    step: str
    place: int
    steps: int
    epoch: int = 0
    epochs: int = 0
    map50: float | None = None
    best_map50: float | None = None
    stage_left_s: float | None = None
    left_s: float | None = None

    def __str__(self) -> str:
        if not self.step:
            return 'every step is done' if self.steps else 'no step has begun'
        text = f'[{self.place}/{self.steps}] {self.step}'
        if self.epochs:
            text += f': epoch {self.epoch}/{self.epochs}'
        if self.map50 is not None:
            text += f', mAP50 {self.map50:.3f} (best {self.best_map50:.3f})'
        if self.stage_left_s is not None:
            text += f', stage {duration(self.stage_left_s)} left'
        if self.left_s is not None:
            text += f', campaign {duration(self.left_s)} left'
        return text


def read_progress(folder: CampaignFolder, state: State) -> CampaignProgress:
    """Read from its files how far a campaign is."""
    names, steps = state.unfinished(), len(state.steps)
    if not names:
        return CampaignProgress('', steps, steps, left_s=0.0)
    step, left = names[0], _seconds_left(folder, state)
    left_s = sum(filter(None, left.values())) if None not in left.values() else None
    stage = state.steps[step].result.get('stage')
    map50 = _read_columns(folder, state.steps[step]).get(MAP50, ()) if stage else ()
    return CampaignProgress(
        step,
        place=list(state.steps).index(step) + 1,
        steps=steps,
        epoch=len(map50),
        epochs=int(stage['epochs']) if stage else 0,
        map50=map50[-1] if map50 else None,
        best_map50=max(map50, default=None),
        stage_left_s=left[step] if stage else None,
        left_s=left_s,
    )


def _seconds_left(folder: CampaignFolder, state: State) -> dict[str, float | None]:
    """Step that is not done -> seconds that it needs, by those that ran; None: not known yet.

    A step that is no training takes as long as the mean of its kind; 0 before the first of them.
    """
    pictures = state.result('verify').get('pictures', {})
    s_per_work, trained, tested = None, {}, defaultdict[str, list[float]](list)
    for name, step in state.steps.items():
        if stage := step.result.get('stage'):
            trained[name] = epoch_seconds(_read_columns(folder, step))
            if trained[name] and (work := _work(stage, pictures)):
                s_per_work = statistics.median(trained[name]) / work
        elif step.status == 'done':
            tested[name.rpartition('/')[2]].append(step.seconds)
    left: dict[str, float | None] = {}
    for name in state.unfinished():
        stage = state.steps[name].result.get('stage')
        if stage is None:
            left[name] = statistics.mean(tested[name.rpartition('/')[2]] or [0.0])
            continue
        pace_s = s_per_work * _work(stage, pictures) if s_per_work else None
        if trained[name]:
            pace_s = statistics.median(trained[name])
        epochs = max(int(stage['epochs']) - len(trained[name]), 0)
        left[name] = None if pace_s is None else epochs * pace_s
    return left


def _read_columns(folder: CampaignFolder, step: Step) -> Columns:
    return read_results(folder.root / step.result['folder'] / 'results.csv')


def _work(stage: Mapping[str, Any], pictures: Mapping[str, Mapping[str, int]]) -> float:
    """Work of one epoch, in pictures of 640 px squared."""
    whole = pictures.get(stage['data'], {}).get('train', 0)
    shown = whole * stage['fraction'] * max(stage['crops_per_picture'], 1)
    return float(shown * (stage['imgsz'] / 640) ** 2)


def duration(seconds: float) -> str:
    """2 d 4 h, 3 h 20 min, 12 min, 40 s."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 24:
        return f'{int(hours // 24)} d {int(hours % 24)} h'
    if hours >= 1:
        return f'{int(hours)} h {int(minutes % 60)} min'
    return f'{int(minutes)} min' if minutes >= 2 else f'{int(seconds)} s'


def say(text: str) -> None:
    """One line with the time. A log that is gone (its terminal, its pipe) ends no training."""
    with contextlib.suppress(OSError):
        print(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {text}', flush=True)
