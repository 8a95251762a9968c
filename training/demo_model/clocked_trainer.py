"""A training that ends by the clock, and completes its schedule on a slow or shared machine too.

Imports torch and ultralytics: import it only after `prepare_ultralytics()`.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cone_perception.files import read_json, write_json
from cone_perception.types import UInt8
from training.stage.sharded_trainer import ShardedTrainer, last_checkpoint


def spoil(bgr: UInt8) -> UInt8:
    """A picture with faults that no renderer has: exposure, white balance, blur, noise, JPEG."""
    chance = random.random
    picture = bgr
    if chance() < 0.5:  # white balance and exposure per channel, then a tone curve
        gain = np.random.uniform(0.88, 1.12, 3) * random.uniform(0.75, 1.3)
        ramp = np.linspace(0, 1, 256)[:, None] ** random.uniform(0.7, 1.4)
        curves = np.clip(ramp * gain * 255 + random.uniform(-15, 15), 0, 255).astype(np.uint8)
        picture = cv2.LUT(picture, curves[:, None])
    if chance() < 0.15:
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        picture = cv2.addWeighted(picture, keep := random.uniform(0.3, 1.0), grey, 1 - keep, 0)
    height, width = picture.shape[:2]
    blur = chance()
    if blur < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 1.3))
    elif blur < 0.35:  # fewer pixels than the network's
        share = random.uniform(0.5, 0.9)
        small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    elif blur < 0.55:  # the sharpening of camera firmware
        soft = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.7, 1.5))
        amount = random.uniform(0.3, 1.5)
        picture = cv2.addWeighted(picture, 1 + amount, soft, -amount, 0)
    if chance() < 0.3:
        noise = np.empty(picture.shape, np.int16)
        cv2.randn(noise, 0, random.uniform(2, 12))
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
    if chance() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, random.randint(30, 90)]
        picture = cv2.imdecode(cv2.imencode('.jpg', picture, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(picture)


def spoil_labelled(labels: dict[str, Any]) -> dict[str, Any]:
    """Spoil the picture of Ultralytics' own record of one."""
    return {**labels, 'img': spoil(labels['img'])}


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


class ClockedTrainer(ShardedTrainer):
    """Trains until the schedule's time is used up; killed and started again, it goes on.

    There is no validation inside: the result is the averaged weights at the schedule's end, and
    `cone-training evaluate` says what they are worth.
    """

    def __init__(self, overrides: dict[str, Any], schedule: Schedule, workers: int) -> None:
        endless = {'epochs': 100_000, 'val': False, 'plots': False}  # the clock ends the training
        super().__init__(overrides=overrides | endless)
        self.args.workers = workers
        self.schedule = schedule
        self.progress = {'trained_s': 0.0, 'pictures': 0}
        self._mosaic_closed = False
        self.progress_file = self.save_dir / 'progress.json'
        if self.resume and self.progress_file.is_file():
            self.progress = read_json(self.progress_file)
        self.add_callback('on_train_epoch_start', ClockedTrainer._close_mosaic_in_time)
        self.add_callback('on_train_batch_end', ClockedTrainer._tick)

    @property
    def used(self) -> float:
        """Share of the time budget that is used up."""
        return self.progress['trained_s'] / self.schedule.budget_s

    def build_dataset(self, img_path: str, mode: str = 'train', batch: int | None = None) -> Any:
        dataset = super().build_dataset(img_path, mode, batch)
        if mode == 'train':
            dataset.transforms.insert(-1, spoil_labelled)  # the last one makes a tensor
        return dataset

    def _setup_train(self) -> None:
        super()._setup_train()
        self.model.criterion = None  # Ultralytics would weigh the heads by epoch, not by the clock
        self._tick_at = self._saved_at = self._logged_at = time.monotonic()
        self._logged_pictures = self.progress['pictures']

    def optimizer_step(self) -> None:
        used = self.used
        for group in self.optimizer.param_groups:
            group['lr'] = group['initial_lr'] * self.schedule.rate(used)
        for criterion in self.model.loss.criteria:
            if hasattr(criterion, 'o2m'):  # YOLO26's two heads; Ultralytics does it by epoch
                criterion.o2m = 0.8 - 0.7 * min(used, 1.0)
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

    def _close_mosaic_in_time(self) -> None:
        if self.used >= 1 - self.schedule.plain and not self._mosaic_closed:
            self._mosaic_closed = True
            self._close_dataloader_mosaic()
            self.train_loader.dataset.transforms.insert(-1, spoil_labelled)
            self.train_loader.reset()

    def _tick(self) -> None:
        now = time.monotonic()
        self.progress['trained_s'] += now - self._tick_at
        self.progress['pictures'] += self.batch_size
        self._tick_at = now
        if now - self._logged_at > 15:
            total = self.progress['pictures']
            done = total - self._logged_pictures
            losses = ' '.join(f'{name} {float(loss):.3f}' for name, loss in self.tloss.items())
            left_min = (self.schedule.budget_s - self.progress['trained_s']) / 60
            print(
                f'{time.strftime("%H:%M:%S")} {self.used:6.1%}  {total} pictures, '
                f'{(now - self._logged_at) / done * 1000:.0f} ms each, {left_min:.1f} min left; '
                f'lr {self.optimizer.param_groups[0]["lr"]:.2e}; {losses}',
                flush=True,
            )
            self._logged_at, self._logged_pictures = now, total
        if self.used >= 1:
            self.stop = True
        elif now - self._saved_at > self.schedule.checkpoint_s:
            self._saved_at = now
            self.save_model()


def train(overrides: dict[str, Any], schedule: Schedule, workers: int, folder: Path) -> Path:
    """Train into `folder`, or go on with what lies there. Returns the last checkpoint's path."""
    last = folder / 'weights' / 'last.pt'
    if checkpoint := last_checkpoint(last.parent):
        overrides = {'resume': str(checkpoint), 'save_dir': str(folder)}
    trainer = ClockedTrainer(overrides, schedule, workers)
    if trainer.used < 1:
        trainer.train()
    return last
