"""Tells how far a campaign is, for its log and for `cone-training status`.

campaign.json + results.csv of the stage that runs -> CampaignProgress -> one line
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.runs.folder import CampaignFolder, State
from training.runs.record import MAP50, Columns, epoch_seconds, read_results

REFERENCE_PX = 640


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
    pace, step = _Pace(folder, state), names[0]
    left = [pace.left_s(name) for name in names]
    left_s = sum(filter(None, left)) if None not in left else None
    progress = CampaignProgress(step, list(state.steps).index(step) + 1, steps, left_s=left_s)
    stage = state.steps[step].result.get('stage')
    if not stage:
        return progress
    map50 = pace.columns(step).get(MAP50, ())
    return replace(
        progress,
        epoch=len(map50),
        epochs=int(stage['epochs']),
        map50=map50[-1] if map50 else None,
        best_map50=max(map50, default=None),
        stage_left_s=left[0],
    )


class _Pace:
    """Seconds that each step still needs, from those of steps that ran."""

    def __init__(self, folder: CampaignFolder, state: State) -> None:
        self._folder = folder
        self._steps = state.steps
        pictures = state.result('verify').get('pictures', {})
        self._pictures: Mapping[str, Mapping[str, int]] = pictures
        rates = [
            statistics.median(seconds) / self._work(name)
            for name in state.steps
            if self._work(name) and (seconds := epoch_seconds(self.columns(name)))
        ]
        self._s_per_work = rates[-1] if rates else None

    def columns(self, name: str) -> Columns:
        """results.csv of a training; empty: there is none."""
        folder = self._steps[name].result.get('folder')
        return read_results(self._folder.root / folder / 'results.csv') if folder else {}

    def left_s(self, name: str) -> float | None:
        """Seconds until a step is done; None: not known yet."""
        step = self._steps[name]
        stage = step.result.get('stage')
        if stage is None:
            return self._mean_s(name.rpartition('/')[2])
        done = epoch_seconds(self.columns(name))
        left = max(int(stage['epochs']) - len(done), 0)
        if done:
            return left * statistics.median(done)
        return left * self._work(name) * self._s_per_work if self._s_per_work else None

    def _mean_s(self, kind: str) -> float:
        """Mean time of such steps that are done; 0 before the first, as they are short."""
        seconds = [
            step.seconds
            for name, step in self._steps.items()
            if name.rpartition('/')[2] == kind and step.status == 'done'
        ]
        return statistics.mean(seconds) if seconds else 0.0

    def _work(self, name: str) -> float:
        """Work of one epoch, in pictures of REFERENCE_PX squared."""
        stage: Mapping[str, Any] | None = self._steps[name].result.get('stage')
        if stage is None:
            return 0.0
        pictures = self._pictures.get(stage['data'], {}).get('train', 0)
        shown = pictures * stage['fraction'] * max(stage['crops_per_picture'], 1)
        return float(shown * (stage['imgsz'] / REFERENCE_PX) ** 2)


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
