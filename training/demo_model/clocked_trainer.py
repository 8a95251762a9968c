"""A training that ends by the clock, and completes its schedule on a slow or shared machine too.

Imports torch and ultralytics: import it only after `prepare_ultralytics()`.
"""

from __future__ import annotations

import json
import math
import time
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cone_perception.files import write_json
from training.demo_model.camera_faults import SpoiledDataset
from training.stage.checkpoints import last_checkpoint
from training.stage.sharded_trainer import ShardedTrainer

EPOCHS = 100_000
"""Never reached: the clock ends the training."""

LOG_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate and its like as functions of the share of the time budget used, 0..1.

    A slow or shared machine trains fewer steps, but the schedule always completes.

    budget_s: training time. final: learning rate at the end as a share of its peak.
    warmup: share of the time in which the rate rises from 0 to its peak.
    plain: share at the end without mosaic. checkpoint_s: time between two checkpoints.
    """

    budget_s: float
    final: float = 0.01
    warmup: float = 0.02
    plain: float = 0.15
    checkpoint_s: float = 120.0

    def rate(self, used: float) -> float:
        """Learning rate as a share of its peak: a linear rise, then half a cosine."""
        if used < self.warmup:
            return max(used / self.warmup, 1e-3)
        fall = min((used - self.warmup) / (1 - self.warmup), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * fall))

    def one_to_many(self, used: float) -> float:
        """Weight of YOLO26's auxiliary head: 0.8 falling to 0.1, as Ultralytics does by epoch."""
        return 0.8 - 0.7 * min(used, 1.0)


@dataclass(slots=True)
class Trained:
    """Time and pictures of a run so far. Saved beside each checkpoint."""

    trained_s: float = 0.0
    pictures: int = 0


class ClockedTrainer(ShardedTrainer):
    """Trains until the schedule's time is used up; killed and started again, it goes on.

    There is no validation inside: the result is the averaged weights at the schedule's end, and
    what they are worth is for `cone-training judge` to say.
    """

    def __init__(self, overrides: dict[str, Any], schedule: Schedule, workers: int) -> None:
        super().__init__(overrides={**overrides, 'epochs': EPOCHS, 'val': False, 'plots': False})
        self.args.workers = workers
        self.schedule = schedule
        self.progress = Trained()
        self._mosaic_closed = False
        self.progress_file = self.save_dir / 'progress.json'
        if self.resume and self.progress_file.is_file():
            self.progress = Trained(**json.loads(self.progress_file.read_text()))
        self.add_callback('on_train_start', ClockedTrainer._start_clock)
        self.add_callback('on_train_epoch_start', ClockedTrainer._close_mosaic_in_time)
        self.add_callback('on_train_batch_end', ClockedTrainer._tick)

    @property
    def used(self) -> float:
        """Share of the time budget that is used up."""
        return self.progress.trained_s / self.schedule.budget_s

    def build_dataset(self, img_path: str, mode: str = 'train', batch: int | None = None) -> Any:
        return SpoiledDataset(
            img_path=img_path,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=mode == 'train',
            hyp=copy(self.args),
            rect=False,
            cache=self.args.cache if mode == 'train' else None,
            stride=32,
            pad=0.0,
            task='detect',
            data=self.data,
        )

    def _setup_train(self) -> None:
        super()._setup_train()
        self.model.criterion = None  # Ultralytics would weigh the heads by epoch, not by the clock

    def optimizer_step(self) -> None:
        used = self.used
        for group in self.optimizer.param_groups:
            group['lr'] = group['initial_lr'] * self.schedule.rate(used)
        for criterion in self.model.loss.criteria:
            if hasattr(criterion, 'o2m'):  # YOLO26's two heads
                criterion.o2m = self.schedule.one_to_many(used)
                criterion.o2o = 1 - criterion.o2m
        super().optimizer_step()

    def validate(self) -> tuple[dict[str, float], float]:
        return {}, 0.0

    def final_eval(self) -> None:
        """Nothing: the last checkpoint is the result."""

    def save_model(self) -> bool:
        self.fitness = 0.0
        super().save_model()
        write_json(self.progress_file, self.progress)
        return True

    def _start_clock(self) -> None:
        self._tick_at = self._saved_at = self._logged_at = time.monotonic()
        self._logged_pictures = self.progress.pictures

    def _close_mosaic_in_time(self) -> None:
        if self.used >= 1 - self.schedule.plain and not self._mosaic_closed:
            self._mosaic_closed = True
            self._close_dataloader_mosaic()
            self.train_loader.reset()

    def _tick(self) -> None:
        now = time.monotonic()
        self.progress.trained_s += now - self._tick_at
        self.progress.pictures += self.batch_size
        self._tick_at = now
        if now - self._logged_at > LOG_EVERY_S:
            self._log(now)
        if self.used >= 1:
            self.stop = True
        elif now - self._saved_at > self.schedule.checkpoint_s:
            self._saved_at = now
            self.save_model()

    def _log(self, now: float) -> None:
        done = self.progress.pictures - self._logged_pictures
        losses = ' '.join(f'{name} {float(loss):.3f}' for name, loss in self.tloss.items())
        left_min = (self.schedule.budget_s - self.progress.trained_s) / 60
        print(
            f'{time.strftime("%H:%M:%S")} {self.used:6.1%}  {self.progress.pictures} pictures, '
            f'{(now - self._logged_at) / done * 1000:.0f} ms each, {left_min:.1f} min left; '
            f'lr {self.optimizer.param_groups[0]["lr"]:.2e}; {losses}',
            flush=True,
        )
        self._logged_at, self._logged_pictures = now, self.progress.pictures


def train(overrides: dict[str, Any], schedule: Schedule, workers: int, folder: Path) -> Path:
    """Train into `folder`, or go on with what lies there. Returns the last checkpoint's path."""
    last = folder / 'weights' / 'last.pt'
    if checkpoint := last_checkpoint(last.parent):
        overrides = {'resume': str(checkpoint), 'save_dir': str(folder)}
    trainer = ClockedTrainer(overrides, schedule, workers)
    if trainer.used < 1:
        trainer.train()
    return last
