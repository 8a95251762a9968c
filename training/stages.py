"""One training stage, watched: StageJob -> train_stage -> StageResult.

Imports torch and ultralytics. Ultralytics' own launcher for several GPUs imports this module in its
child processes, so that it prepares Ultralytics itself, and keeps every guard in StageTrainer.
"""

from __future__ import annotations

import contextlib
import ctypes
import csv
import errno
import io
import json
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.ultralytics_cpu import prepare_ultralytics

prepare_ultralytics()

import torch  # noqa: E402
from ultralytics.data import build_yolo_dataset  # noqa: E402
from ultralytics.engine import trainer as ultralytics_trainer  # noqa: E402
from ultralytics.models.yolo.detect import DetectionValidator  # noqa: E402
from ultralytics.nn.tasks import load_checkpoint, yaml_model_load  # noqa: E402
from ultralytics.utils import DEFAULT_CFG, RANK  # noqa: E402
from ultralytics.utils.dist import ddp_cleanup, generate_ddp_command  # noqa: E402
from ultralytics.utils.torch_utils import strip_optimizer, unwrap_model  # noqa: E402

from cone_perception.errors import DataError, EngineError, InstallError, ModelError  # noqa: E402
from training.cpu_trainer import (  # noqa: E402
    PREVIOUS,
    ShardedTrainer,
    last_checkpoint,
    replace_file,
)
from training.folder import CampaignFolder, EventKind, append_event, write_text  # noqa: E402
from training.guards import (  # noqa: E402
    MITIGATIONS,
    GuardError,
    StageStopped,
    StopReason,
    arguments,
    check_arguments,
    check_data,
    check_rates,
    class_names,
    expected_accumulation,
    forgotten,
    pictures,
    warmup_batches,
)
from training.recipe import Guards, SelectBy, Stage, Tracking  # noqa: E402
from training.tracking import open_tracking  # noqa: E402

JOB_VARIABLE = 'CONE_TRAINING_STAGE'
"""Environment variable that tells Ultralytics' child processes where the job's file is."""

MAP50, MAP50_95 = 'metrics/mAP50(B)', 'metrics/mAP50-95(B)'
"""Ultralytics' names."""

FITNESS: Mapping[SelectBy, str] = {'map50': MAP50, 'map50_95': MAP50_95}

SCALER_SKIPS = 10
"""Batches in a row whose loss may overflow in float16: the gradient scaler leaves them out."""


@dataclass(frozen=True, slots=True)
class StageJob:
    """What to train, and on what machine.

    run: `two-stage/seed0`. model: weights (.pt) or architecture (.yaml) to start from. data_yaml:
    pictures of the stage. target_yaml: of the data set that counts. folder: that Ultralytics writes
    and may delete. events: events.jsonl in the campaign's folder. campaign: its name.
    device, amp, workers, cache, select_by, guards, tracking: as in Recipe. imgsz_val: longer side
    of the network input in validation, pixels.
    """

    run: str
    stage: Stage
    model: Path | str
    data_yaml: Path
    target_yaml: Path
    folder: Path
    events: Path
    campaign: str
    seed: int = 0
    device: str | int | tuple[int, ...] = 'cpu'
    amp: bool = True
    workers: int = 0
    cache: bool = False
    select_by: SelectBy = 'map50'
    guards: Guards = Guards()
    tracking: Tracking = Tracking()
    imgsz_val: int = 640

    @property
    def file(self) -> Path:
        """Where the job is written for Ultralytics' child processes."""
        return CampaignFolder(self.events.parent).job(self.run, self.stage)

    @property
    def weights(self) -> Path:
        return self.folder / 'weights'

    def write(self) -> None:
        write_text(self.file, json.dumps(asdict(self), default=str, indent=2) + '\n')

    @classmethod
    def read(cls, path: Path) -> StageJob:
        stored = json.loads(path.read_text(encoding='utf-8'))
        for name in ('data_yaml', 'target_yaml', 'folder', 'events'):
            stored[name] = Path(stored[name])
        for name, kind in (('stage', Stage), ('guards', Guards), ('tracking', Tracking)):
            stored[name] = kind(**stored[name])
        if isinstance(stored['device'], list):
            stored['device'] = tuple(stored['device'])
        return cls(**stored)

    def log(self, kind: EventKind, name: str, message: str, **values: Any) -> None:
        """Append an event; a line on the terminal too, unless it is routine."""
        append_event(
            self.events, kind, name, message, run=self.run, step=self.stage.name, values=values
        )
        if kind != 'guard':
            print(f'{self.run} {self.stage.name}: {message}', flush=True)


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a finished stage has to show.

    epochs: trained. stopped_by: `patience`, or None: all epochs. start_map50: of the starting
    weights on the target's validation set; None: they do not know its classes. best_epoch: of
    best.pt, from 1. best_map50, best_map50_95: of best.pt on the stage's own validation set.
    on_target: that set is the target's. worse_than_start: best.pt is worse than what the stage
    started from, on that set. seconds: training and validation, all sittings together.
    """

    best: Path
    last: Path
    epochs: int
    stopped_by: str | None
    start_map50: float | None
    best_epoch: int
    best_map50: float
    best_map50_95: float
    on_target: bool
    worse_than_start: bool
    seconds: float


def train_stage(job: StageJob) -> StageResult:
    """Train the stage, go on with it where it was, or return the result of a finished one.

    Raises StageStopped when it ended early and can go on, GuardError when Ultralytics does not do
    what the recipe says, DataError and ModelError for what it cannot start from.
    """
    on_target = check_data(job.data_yaml, job.target_yaml)
    record = _Record(job)
    if (result := record.result()) is not None:
        return result
    checkpoint = last_checkpoint(job.weights)
    if checkpoint is None:
        check_start(job)
        record.update(start=validate_start(job, on_target), on_target=on_target, seconds=0.0)
    elif checkpoint.name == PREVIOUS:
        job.log('warning', 'checkpoint_damaged', 'last.pt is damaged: goes on from the one before')
    if checkpoint is None or not _is_complete(job, checkpoint):
        _train(job, checkpoint)
    return _finish(job, record)


def _train(job: StageJob, checkpoint: Path | None) -> None:
    job.write()
    os.environ[JOB_VARIABLE] = str(job.file)
    overrides = {
        **arguments(job.stage),
        'data': str(job.data_yaml),
        'save_dir': str(job.folder),
        'device': list(job.device) if isinstance(job.device, tuple) else job.device,
        'workers': job.workers,
        'cache': job.cache,
    }
    if checkpoint is None:
        overrides |= {
            'model': str(job.model),
            'pretrained': True,
            'seed': job.seed,
            'amp': job.amp,
            'deterministic': True,
            'plots': False,
            'split': 'val',
        }
    else:
        keep_rows(job.folder / 'results.csv', epochs_of(checkpoint))
        overrides |= {'resume': str(checkpoint)}
    StageTrainer(overrides=overrides).train()


class StageTrainer(ShardedTrainer):
    """Ultralytics' detection trainer with the guards of a stage.

    Made from the job that CONE_TRAINING_STAGE names, in child processes too. Callbacks, those of
    Ultralytics' integrations among them, are not run: the methods `_on_...` take their place.
    """

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        self.job = StageJob.read(Path(os.environ[JOB_VARIABLE]))
        self.record = _Record(self.job)
        self.bfloat16 = self.job.amp
        self.terminated = False
        self._bad_losses = 0
        super().__init__(cfg, overrides, _callbacks)
        self.args.workers = self.job.workers  # Ultralytics sets 0 on a CPU

    def train(self) -> None:
        if self.ddp:
            self._launch()
        else:
            super().train()

    def _launch(self) -> None:
        """Ultralytics' own launch of a process per GPU, which ends when this one does."""
        try:
            command, file = generate_ddp_command(self)
        except ImportError as error:
            raise InstallError(
                f'Training on several GPUs needs {error.name}: install it.'
            ) from error
        try:
            with subprocess.Popen(command, preexec_fn=_end_with_parent) as launcher:
                with _on_sigterm(launcher.terminate):
                    status = launcher.wait()
        finally:
            ddp_cleanup(self, file)
        if status:
            self.record.raise_ending()
            raise EngineError(
                f'the processes of the GPUs ended with status {status}: see their output above.'
            )

    def _do_train(self) -> None:
        self.record.update(ending=None)
        try:
            with _on_sigterm(self._terminate), _endings(self.job):
                super()._do_train()
        except (StageStopped, GuardError) as error:
            if RANK in {-1, 0}:
                self._leave(error)
            raise

    def _terminate(self) -> None:
        self.terminated = True

    def _leave(self, error: StageStopped | GuardError) -> None:
        """Tell the campaign, and the process that launched this one, why the stage ended."""
        stopped = isinstance(error, StageStopped)
        reason = error.reason if isinstance(error, StageStopped) else 'guard'
        with contextlib.suppress(OSError):  # the disk is full
            self.job.log('guard' if not stopped else 'error', reason, str(error))
            self.record.update(ending={'reason': reason, 'message': str(error)})
        if hasattr(self, '_tracked'):
            self._tracked.finish(failed=True)

    def _setup_train(self) -> None:
        known = ultralytics_trainer.check_amp
        ultralytics_trainer.check_amp = has_mixed_precision
        try:
            super()._setup_train()
        finally:
            ultralytics_trainer.check_amp = known

    def build_dataset(self, img_path: str, mode: str = 'train', batch: int | None = None) -> Any:
        """A share of the training pictures is drawn by seed; Ultralytics takes the first ones."""
        args, share = copy(self.args), self.job.stage.fraction
        if mode == 'train' and share < 1:
            chosen = self.job.file.with_suffix('.pictures.txt')
            files = draw_share(pictures(self.job.data_yaml, 'train'), share, self.job.seed)
            write_text(chosen, '\n'.join(map(str, files)) + '\n')
            img_path = str(chosen)
        if mode == 'val':
            args.imgsz = self.job.imgsz_val
        stride = max(int(unwrap_model(self.model).stride.max()), 32)
        return build_yolo_dataset(
            args, img_path, batch, self.data, mode, mode == 'val', stride, fraction=1.0
        )

    def get_validator(self) -> Any:
        """A YOLO26 is judged by its own head, which drives, and not through NMS."""
        self.args.nms = False if has_own_head(unwrap_model(self.model)) else None
        validator = super().get_validator()
        validator.args.imgsz = self.job.imgsz_val
        return validator

    def validate(self) -> tuple[Any, Any]:
        """Ultralytics' own, but what selects is the recipe's figure."""
        best = self.best_fitness
        with _all_cores(self.device.type == 'cpu'):
            metrics, _ = super().validate()
        if metrics is None:
            return None, None
        fitness = metrics[FITNESS[self.job.select_by]]
        self.best_fitness = fitness if best is None else max(best, fitness)
        return metrics, fitness

    def final_eval(self) -> None:
        """Nothing: best.pt was validated in its epoch; a second time would log a further epoch."""

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Ultralytics would go back three times; with the same data that ends the same."""
        if RANK in {-1, 0} and not (self.loss.isfinite() and math.isfinite(self.fitness)):
            raise _not_finite(self.job, epoch)
        return False

    def run_callbacks(self, event: str) -> None:
        if (step := getattr(self, f'_{event}', None)) is not None:
            step()

    def _on_pretrain_routine_end(self) -> None:
        job, stage = self.job, self.job.stage
        wanted = {**arguments(stage), 'seed': job.seed, 'amp': job.amp, 'split': 'val'}
        check_arguments(vars(self.args), wanted)
        if (used := type(self.optimizer).__name__) != stage.optimizer:
            raise GuardError(f'Ultralytics trains with {used} instead of {stage.optimizer}.')
        self._check_batch()
        if RANK in {-1, 0}:
            job.log('guard', 'settings', "settings are the recipe's", **wanted)

    def _on_train_start(self) -> None:
        self._epoch_started = time.monotonic()
        if RANK in {-1, 0}:
            self._tracked = open_tracking(
                self.job.tracking,
                self.job.campaign,
                self.job.run,
                self.job.stage.name,
                {**asdict(self.job.stage), 'seed': self.job.seed},
                self.job.events.parent,
            )

    def _on_train_epoch_start(self) -> None:
        self._oom_retries = 99  # Ultralytics halves the batch three times before it gives up
        self._batch = self.epoch * len(self.train_loader)

    def _on_train_batch_end(self) -> None:
        batches = len(self.train_loader)
        check_rates(self.job.stage, self.optimizer.param_groups, self._batch, batches)
        if self.loss.isfinite():
            self._bad_losses = 0
        else:
            self._bad_losses += 1
            if self._bad_losses > (SCALER_SKIPS if self.scaler.is_enabled() else 0):
                raise _not_finite(self.job, self.epoch)
        if self.terminated:
            raise StageStopped('terminated', 'asked to end (SIGTERM); goes on from its last epoch.')
        self._batch += 1

    def _on_train_epoch_end(self) -> None:
        self._check_batch()
        stage, batches = self.job.stage, len(self.train_loader)
        wanted = expected_accumulation(stage, batches)
        if self._batch > warmup_batches(stage, batches) and self.accumulate != wanted:
            raise GuardError(
                f'{self.accumulate} batches make an optimizer step instead of {wanted} '
                f'(nbs {stage.nbs} by batch {stage.batch}).'
            )
        if RANK in {-1, 0}:
            rates = {f'lr{i}': group['lr'] for i, group in enumerate(self.optimizer.param_groups)}
            self.job.log(
                'guard', 'learning_rates', f'epoch {self.epoch + 1}: as the recipe says', **rates
            )

    def _check_batch(self) -> None:
        really = self.train_loader.batch_size * max(self.world_size, 1)
        pictures_ = len(self.train_loader.dataset)
        if self.batch_size != self.job.stage.batch or really != min(self.batch_size, pictures_):
            raise GuardError(
                f'Ultralytics trains with a batch of {really} instead of {self.job.stage.batch}.'
            )

    def _on_fit_epoch_end(self) -> None:
        if RANK not in {-1, 0}:
            return
        now = time.monotonic()
        spent_s, self._epoch_started = now - self._epoch_started, now
        self.record.update(seconds=self.record.read().get('seconds', 0.0) + spent_s)
        losses = self.label_loss_items(self.tloss)
        self._tracked.log({**losses, **self.metrics, **self.lr}, step=self.epoch + 1)
        self._print_epoch(spent_s)
        if self.record.read()['on_target']:
            check_forgetting(self.job, self.record)

    def _on_train_end(self) -> None:
        self._tracked.log_artifact(f'{self.job.run}-{self.job.stage.name}', self.best)
        self._tracked.finish()

    def _print_epoch(self, spent_s: float) -> None:
        stage, left = self.job.stage, self.epochs - self.epoch - 1
        losses = ' '.join(f'{name} {float(loss):.3f}' for name, loss in self.tloss.items())
        rate = max(group['lr'] for group in self.optimizer.param_groups)
        print(
            f'{time.strftime("%H:%M:%S")} {self.job.run} {stage.name} '
            f'epoch {self.epoch + 1}/{self.epochs}: mAP50 {self.metrics[MAP50]:.4f}, '
            f'mAP50-95 {self.metrics[MAP50_95]:.4f} (best {self.best_fitness:.4f} in epoch '
            f'{self.stopper.best_epoch}); {losses}; lr {rate:.2e}; '
            f'{spent_s:.0f} s, at most {spent_s * left / 3600:.1f} h left',
            flush=True,
        )


class _Record:
    """What is known of a stage beside its checkpoints; replaced whole, outside its folder.

    start: figures of the starting weights: `target` and `own`, each Ultralytics' metrics or None.
    on_target, seconds: as in StageResult. ending: why the last sitting ended early. result.
    """

    def __init__(self, job: StageJob) -> None:
        self.job = job
        self.path = job.file.with_suffix('.state.json')

    def read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        stored: dict[str, Any] = json.loads(self.path.read_text(encoding='utf-8'))
        return stored

    def update(self, **values: Any) -> None:
        write_text(self.path, json.dumps({**self.read(), **values}, default=str, indent=2) + '\n')

    def result(self) -> StageResult | None:
        """Of a finished stage whose weights are still there."""
        stored = self.read().get('result')
        if stored is None or not Path(stored['best']).is_file():
            return None
        return StageResult(**{**stored, 'best': Path(stored['best']), 'last': Path(stored['last'])})

    def raise_ending(self) -> None:
        """Raise here what ended the training in a child process."""
        if ending := self.read().get('ending'):
            if ending['reason'] == 'guard':
                raise GuardError(ending['message'])
            raise StageStopped(ending['reason'], ending['message'], mitigation_of(ending['reason']))


def has_mixed_precision(model: Any) -> bool:
    """Takes the place of Ultralytics' check, which downloads weights to try float16 with them.

    A GPU that computes nonsense in float16 ends at the guard of the loss.
    """
    return bool(next(model.parameters()).device.type not in {'cpu', 'mps'})


def has_own_head(model: Any) -> bool:
    """The network selects its boxes by itself (YOLO26); others need NMS."""
    return getattr(model.model[-1], 'one2one_cv2', None) is not None


def draw_share(files: list[Path], share: float, seed: int) -> list[Path]:
    """A random share of some files; a smaller share is part of every larger one."""
    shuffled = sorted(files)
    random.Random(seed).shuffle(shuffled)
    return sorted(shuffled[: max(1, round(share * len(files)))])


def check_start(job: StageJob) -> None:
    """Raise ModelError if what the stage starts from is not on this machine."""
    path = Path(job.model)
    if path.suffix == '.pt':
        if not path.is_file():
            raise ModelError(
                f'{path} does not exist, and nothing is downloaded. Put the weights there '
                f'({path.name} of Ultralytics: github.com/ultralytics/assets, on a machine with a '
                f'network), or start from the architecture: model: {path.stem}.yaml'
            )
    elif path.suffix in {'.yaml', '.yml'}:
        try:
            yaml_model_load(path)
        except (OSError, ValueError) as error:
            raise ModelError(f'{path} is no architecture that Ultralytics knows.') from error
    else:
        raise ModelError(f'{path}: a model is a .pt file of weights or a .yaml architecture.')


def validate_start(job: StageJob, on_target: bool) -> dict[str, dict[str, float] | None]:
    """Figures of the starting weights before the first epoch, which Ultralytics does not look at.

    None for an architecture without weights, and for weights of other classes.
    """
    if Path(job.model).suffix != '.pt':
        job.log('guard', 'start', 'starts without weights: there is nothing to forget')
        return {'target': None, 'own': None}
    names = load_checkpoint(job.model)[0].names
    if list(names.values()) != class_names(job.target_yaml):
        job.log('guard', 'start', f'the starting weights know other classes ({len(names)})')
        return {'target': None, 'own': None}
    target = validate(job, job.target_yaml)
    own = target if on_target else validate(job, job.data_yaml)
    job.log('guard', 'start', f'starts from mAP50 {target[MAP50]:.4f} on the target', **target)
    return {'target': target, 'own': own}


def validate(job: StageJob, data_yaml: Path) -> dict[str, float]:
    """Ultralytics' figures of the job's starting weights on a validation split."""
    device = job.device[0] if isinstance(job.device, tuple) else job.device
    settings = {
        'model': str(job.model),
        'data': str(data_yaml),
        'split': 'val',
        'imgsz': job.imgsz_val,
        'batch': max(job.stage.batch // 4, 1),
        'device': device,
        'workers': job.workers,
        'plots': False,
        'nms': False if has_own_head(load_checkpoint(job.model)[0]) else None,
    }
    job.file.parent.mkdir(parents=True, exist_ok=True)
    with _endings(job), _all_cores(device == 'cpu'):
        figures = DetectionValidator(save_dir=job.file.parent, args=settings)()
    return {name: round(float(value), 5) for name, value in figures.items()}


def read_rows(results: Path) -> list[dict[str, str]]:
    """Rows of Ultralytics' results.csv, one an epoch."""
    with results.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def keep_rows(results: Path, epochs: int) -> None:
    """Take out of results.csv what was written after the last checkpoint: it is done again."""
    if not results.is_file():
        return
    header, *lines = results.read_text(encoding='utf-8').splitlines()
    kept = [
        line
        for line in lines
        if line.count(',') == header.count(',') and int(line.split(',')[0]) <= epochs
    ]
    write_text(results, '\n'.join([header, *kept]) + '\n')


def epochs_of(checkpoint: Path) -> int:
    """Epochs that a checkpoint has behind it."""
    return int(_load(checkpoint)['epoch']) + 1


def _load(checkpoint: Path) -> dict[str, Any]:
    stored: dict[str, Any] = torch.load(checkpoint, map_location='cpu', weights_only=False)
    return stored


def _is_complete(job: StageJob, checkpoint: Path) -> bool:
    """Nothing is left to train: only the result was not written any more."""
    stored = _load(checkpoint)
    done, patience = stored['epoch'] + 1, job.stage.patience
    without = done - stored['stopper']['best_epoch']
    return bool(done >= job.stage.epochs or (patience and without >= patience))


def check_forgetting(job: StageJob, record: _Record) -> None:
    """Raise StageStopped if the stage unlearns what its starting weights knew of the target."""
    start = (record.read()['start']['target'] or {}).get(MAP50)
    history = [float(row[MAP50]) for row in read_rows(job.folder / 'results.csv')]
    if start is not None and forgotten(history, start, job.guards):
        raise StageStopped(
            'forgetting',
            f'mAP50 on the target is {history[-1]:.3f} after epoch {len(history)}; it was '
            f'{start:.3f} at the start, and more than {job.guards.forgetting_drop} lower for '
            f'{job.guards.forgetting_epochs} epochs. Try the recipe {" or ".join(MITIGATIONS)}.',
            mitigation_of('forgetting'),
        )


def mitigation_of(reason: str) -> tuple[str, ...]:
    return MITIGATIONS if reason == 'forgetting' else ()


def _finish(job: StageJob, record: _Record) -> StageResult:
    last = last_checkpoint(job.weights)
    best = job.weights / 'best.pt'
    assert last is not None
    rows = read_rows(job.folder / 'results.csv')
    epochs = epochs_of(last)
    fitness = FITNESS[job.select_by]
    chosen = max(rows, key=lambda row: (float(row[fitness]), int(row['epoch'])))
    known = record.read()
    target, own = known['start']['target'], known['start']['own']
    worse = own is not None and float(chosen[fitness]) < own[fitness]
    part = best.with_suffix('.part')
    strip_optimizer(best, s=str(part))
    replace_file(part, best)
    result = StageResult(
        best=best,
        last=last,
        epochs=epochs,
        stopped_by=None if epochs >= job.stage.epochs else 'patience',
        start_map50=None if target is None else target[MAP50],
        best_epoch=int(chosen['epoch']),
        best_map50=float(chosen[MAP50]),
        best_map50_95=float(chosen[MAP50_95]),
        on_target=known['on_target'],
        worse_than_start=worse,
        seconds=known['seconds'],
    )
    if worse:
        job.log(
            'warning',
            'worse_than_start',
            f'best.pt has {fitness} {chosen[fitness]}, the starting weights {own[fitness]}',
        )
    record.update(result=asdict(result), ending=None)
    (job.weights / PREVIOUS).unlink(missing_ok=True)
    return result


def _not_finite(job: StageJob, epoch: int) -> StageStopped:
    return StageStopped(
        'loss_not_finite',
        f'the loss is not a finite number in epoch {epoch + 1}. Try a lower lr0, a longer warm-up '
        'or amp: false; last.pt is from before.',
    )


@contextlib.contextmanager
def _endings(job: StageJob) -> Iterator[None]:
    """Say clearly what the machine cannot do, where Ultralytics would change the settings."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StageStopped(
            'disk_full',
            f'no space is left ({error}). The checkpoints are whole: make room, and go on.',
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not _is_out_of_memory(str(error)):
            raise
        stage = job.stage
        raise StageStopped(
            'out_of_memory',
            f'out of memory with a batch of {stage.batch} at {stage.imgsz} px. Go on with '
            f'{stage.name}.batch={max(stage.batch // 2, 1)}: with nbs={stage.nbs} an optimizer '
            f'step still sees as many pictures. ({str(error).splitlines()[0] if str(error) else error!r})',
        ) from error


def _is_out_of_memory(message: str) -> bool:
    known = ('out of memory', 'cublas_status_alloc_failed', 'unable to find an engine')
    return any(words in message.lower() for words in known)


@contextlib.contextmanager
def _on_sigterm(act: Any) -> Iterator[None]:
    """Call `act` when this process is asked to end; only the main thread can be told."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: act())
    except ValueError:  # another thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _all_cores(apply: bool) -> Iterator[None]:
    """Ultralytics leaves a core free."""
    threads = torch.get_num_threads()
    if apply:
        torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """In the launcher, before it starts: the kernel ends it when this process is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
