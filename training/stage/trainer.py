"""One training stage, watched: StageJob -> train_stage -> StageResult. Imports torch.

Ultralytics imports it in a child process per GPU: so StageTrainer has every guard.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import time
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from training.ultralytics_cpu import prepare_ultralytics

prepare_ultralytics()

import torch  # noqa: E402
from ultralytics.data import build_yolo_dataset  # noqa: E402
from ultralytics.engine import trainer as ultralytics_trainer  # noqa: E402
from ultralytics.nn.tasks import load_checkpoint  # noqa: E402
from ultralytics.utils import DEFAULT_CFG, RANK  # noqa: E402
from ultralytics.utils.dist import ddp_cleanup, generate_ddp_command  # noqa: E402
from ultralytics.utils.torch_utils import strip_optimizer, unwrap_model  # noqa: E402

from cone_perception.dataset.layout import read_layout  # noqa: E402
from cone_perception.errors import EngineError, InstallError, ModelError, told_as  # noqa: E402
from cone_perception.files import write_json  # noqa: E402
from cone_perception.process import end_with_parent, on_sigterm  # noqa: E402
from training.judging.validator import UnhurriedValidator  # noqa: E402
from training.recipe.load import find_model  # noqa: E402
from training.runs.progress import read_progress, say  # noqa: E402
from training.runs.record import MAP50, MAP50_95  # noqa: E402
from training.stage.guards import (  # noqa: E402
    GuardError,
    StageStopped,
    check_arguments,
    check_data,
    check_rates,
    expected_accumulation,
    named_endings,
    warmup_batches,
)
from training.stage.job import StageJob, StageResult, read_job  # noqa: E402
from training.stage.sharded_trainer import (  # noqa: E402
    PREVIOUS,
    ShardedTrainer,
    all_cores,
    last_checkpoint,
    sync_file,
)
from training.stage.tracking import TrackedRun  # noqa: E402

JOB_VARIABLE = 'CONE_TRAINING_STAGE'
"""Environment variable that tells Ultralytics' child processes where the job's file is."""


def train_stage(job: StageJob) -> StageResult:
    """Train the stage, go on with it where it was, or return the result of a finished one.

    Raises StageStopped when it ended early and can go on, GuardError when Ultralytics does not do
    what the recipe says, DataError, RecipeError and ModelError for what it cannot start from.
    """
    if (result := job.result()) is not None:
        return result
    on_target = check_data(job.data_yaml, job.target_yaml)
    checkpoint = last_checkpoint(job.weights)
    if checkpoint is None:
        job.record_file.unlink(missing_ok=True)
    if 'start' not in job.record():
        job.note(start=validate_start(job, on_target), on_target=on_target, seconds=0.0)
    if checkpoint is None:
        _train(job, {'model': str(find_model(str(job.model)))})
        return _finish(job)
    if checkpoint.name == PREVIOUS:
        job.log('warning', 'checkpoint_damaged', 'last.pt is damaged: goes on from the one before')
    saved: dict[str, Any] = torch.load(checkpoint, map_location='cpu', weights_only=False)
    done, patience = saved['epoch'] + 1, job.stage.patience
    job.keep_rows(done)
    job.check_forgetting()
    without_better = done - saved['stopper']['best_epoch']
    # Nothing may be left to train: a kill came before the result was written.
    if done < job.stage.epochs and not (patience and without_better >= patience):
        _train(job, {'resume': str(checkpoint)})
    return _finish(job)


def validate_start(job: StageJob, on_target: bool) -> dict[str, dict[str, float] | None]:
    """Figures of the starting weights on the target's validation set and on the stage's own.

    None for an architecture without weights, and for weights of other classes.
    """
    model = str(find_model(str(job.model)))
    names = load_checkpoint(model)[0].names if model.endswith('.pt') else {}
    if tuple(names.values()) != read_layout(job.target_yaml).names:
        other = f'the starting weights know {len(names)} other classes'
        told = other if names else 'the stage starts without weights: there is nothing to forget'
        job.log('guard', 'start', told)
        return {'target': None, 'own': None}
    target = _validate(job, job.target_yaml)
    own = target if on_target else _validate(job, job.data_yaml)
    job.log('guard', 'start', f'starts from mAP50 {target[MAP50]:.4f} on the target', **target)
    return {'target': target, 'own': own}


def _validate(job: StageJob, data_yaml: Path) -> dict[str, float]:
    """Ultralytics' figures of the job's starting weights on a validation split."""
    gpus = job.recipe.gpus
    settings = {
        'model': str(job.model),
        'data': str(data_yaml),
        'split': 'val',
        'imgsz': job.recipe.judging.imgsz,
        'batch': min(job.stage.batch, 32),
        'device': gpus[0] if gpus else 'cpu',
        'workers': job.recipe.workers,
        'plots': False,
        'nms': job.arguments()['nms'],
    }
    job.file.parent.mkdir(parents=True, exist_ok=True)
    with named_endings(job.stage), all_cores(not gpus):
        figures = UnhurriedValidator(save_dir=job.file.parent, args=settings)()
    return {name: round(float(value), 5) for name, value in figures.items()}


def _train(job: StageJob, begin: dict[str, str]) -> None:
    """begin: `model`, or the checkpoint to `resume` from, which has its own settings."""
    write_json(job.file, job)
    job.note(ending=None)
    os.environ[JOB_VARIABLE] = str(job.file)
    device = job.recipe.device
    overrides = {
        **job.arguments(),
        **begin,
        'data': str(job.data_yaml),
        'save_dir': str(job.folder),
        'device': list(device) if isinstance(device, tuple) else device,
        'workers': job.recipe.workers,
        'cache': job.recipe.cache,
    }
    StageTrainer(overrides=overrides).train()


class StageTrainer(ShardedTrainer):
    """Ultralytics' detection trainer with the guards of a stage.

    Made from the job that CONE_TRAINING_STAGE names, in child processes too. Callbacks, those of
    Ultralytics' integrations among them, are not run: the methods `_on_...` take their place.
    Its other methods that begin with `_` are private to Ultralytics 8.4, which has no public place
    where a training stops, or ends on a loss that is no number.
    """

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        self.job = read_job(Path(os.environ[JOB_VARIABLE]))
        self.bfloat16 = self.job.recipe.amp
        self.terminated = False
        self._bad_losses = 0
        super().__init__(cfg, overrides, _callbacks)
        self.args.workers = self.job.recipe.workers  # Ultralytics sets 0 on a CPU

    def train(self) -> None:
        """Train here, or in Ultralytics' own process per GPU, which ends when this one does."""
        if not self.ddp:
            super().train()
            return
        needs = 'Training on several GPUs needs a package that is not there: install it'
        with told_as(InstallError, needs, ImportError):
            command, file = generate_ddp_command(self)
        try:
            with (
                subprocess.Popen(command, preexec_fn=end_with_parent) as launcher,
                on_sigterm(partial(self._terminate, launcher)),
            ):
                status = launcher.wait()
        finally:
            ddp_cleanup(self, file)
        if status:
            ending = self.job.record().get('ending') or {'reason': None}
            if ending['reason'] == 'guard':
                raise GuardError(ending['message'])
            if ending['reason']:
                raise StageStopped(ending['reason'], ending['message'])
            self._stop_if_terminated()
            raise EngineError(
                f'the processes of the GPUs ended with status {status}: see their output above.'
            )

    def _do_train(self) -> None:
        try:
            with on_sigterm(self._terminate), named_endings(self.job.stage):
                super()._do_train()
        except BaseException as error:
            if RANK in {-1, 0}:
                self._leave(error)
            raise

    def _terminate(self, launcher: subprocess.Popen[bytes] | None = None) -> None:
        self.terminated = True
        if launcher:
            launcher.terminate()

    def _stop_if_terminated(self) -> None:
        if self.terminated:
            told = 'asked to end (SIGTERM); goes on from its last epoch.'
            raise StageStopped('terminated', told)

    def _leave(self, error: BaseException) -> None:
        """Tell the campaign, and the process that launched this one, why the stage ended."""
        if isinstance(error, (StageStopped, GuardError)):
            reason = error.reason if isinstance(error, StageStopped) else 'guard'
            with contextlib.suppress(OSError):  # the disk is full
                of_machine = reason in ('out_of_memory', 'disk_full', 'terminated')
                self.job.log('error' if of_machine else 'guard', reason, str(error))
                self.job.note(ending={'reason': reason, 'message': str(error)})
        if hasattr(self, '_tracked'):
            self._tracked.finish(failed=True)

    def _setup_train(self) -> None:
        known = ultralytics_trainer.check_amp
        # It downloads weights to try float16 with them. A GPU that computes nonsense in float16
        # ends at the guard of the loss.
        ultralytics_trainer.check_amp = lambda _: self.device.type not in {'cpu', 'mps'}
        try:
            super()._setup_train()
        finally:
            ultralytics_trainer.check_amp = known

    def build_dataset(self, img_path: str, mode: str = 'train', batch: int | None = None) -> Any:
        """Ultralytics' own, but pictures are validated at the size at which models are judged."""
        args = copy(self.args)
        if mode == 'val':
            args.imgsz = self.job.recipe.judging.imgsz
        stride = max(int(unwrap_model(self.model).stride.max()), 32)
        return build_yolo_dataset(args, img_path, batch, self.data, mode, mode == 'val', stride)

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = 'train'
    ) -> Any:
        """Larger pictures are validated in smaller batches: they take no more memory."""
        if mode == 'val':
            share = min(self.args.imgsz / self.job.recipe.judging.imgsz, 1.0)
            batch_size = max(int(batch_size * share**2), 1)
        return super().get_dataloader(dataset_path, batch_size, rank, mode)

    def get_validator(self) -> UnhurriedValidator:
        """One that finds the same on a busy machine: best.pt, patience and guards look at it."""
        return UnhurriedValidator(self.test_loader, self.save_dir, copy(self.args), self.callbacks)

    def validate(self) -> tuple[Any, Any]:
        """Ultralytics' own, but what selects is the recipe's figure."""
        best = self.best_fitness
        with all_cores(self.device.type == 'cpu'):
            metrics, _ = super().validate()
        if metrics is None:
            return None, None
        fitness = metrics[self.job.fitness]
        self.best_fitness = fitness if best is None else max(best, fitness)
        return metrics, fitness

    def final_eval(self) -> None:
        """Nothing: best.pt was validated in its epoch; a second time would log a further epoch."""

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Ultralytics would go back three times; with the same data that ends the same."""
        if RANK in {-1, 0} and not (self.loss.isfinite() and math.isfinite(self.fitness)):
            raise _not_finite(epoch)
        return False

    def run_callbacks(self, event: str) -> None:
        if (step := getattr(self, f'_{event}', None)) is not None:
            step()

    def _on_pretrain_routine_end(self) -> None:
        job, wanted = self.job, self.job.arguments()
        check_arguments(vars(self.args), wanted)
        if (used := type(self.optimizer).__name__) != job.stage.optimizer:
            raise GuardError(f'Ultralytics trains with {used} instead of {job.stage.optimizer}.')
        if self.device.type == 'cuda' and bool(self.amp) != job.recipe.amp:
            raise GuardError(f'Ultralytics has set amp to {bool(self.amp)}: say so in the recipe.')
        self._check_batch()
        if RANK in {-1, 0}:
            job.log('guard', 'settings', "Ultralytics has the recipe's settings", **wanted)

    def _on_train_start(self) -> None:
        self._epoch_started = time.monotonic()
        if RANK in {-1, 0}:
            job = self.job
            about = {
                'group': job.campaign.name,
                'job_type': job.stage.name,
                'name': f'{job.run}/{job.stage.name}',
                'config': {**asdict(job.stage), 'seed': job.seed},
            }
            self._tracked = TrackedRun(job.recipe.tracking, about, job.folder, job.root)

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
            # So many in a row may overflow in float16: the gradient scaler leaves them out.
            if self._bad_losses > (10 if self.scaler.is_enabled() else 0):
                raise _not_finite(self.epoch)
        self._stop_if_terminated()
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
        spent_s = time.monotonic() - self._epoch_started
        self._epoch_started += spent_s
        job, folder = self.job, self.job.campaign
        job.note(seconds=job.record().get('seconds', 0.0) + spent_s)
        losses = ' '.join(f'{name} {float(loss):.3f}' for name, loss in self.tloss.items())
        rate = max(group['lr'] for group in self.optimizer.param_groups)
        say(
            f'{read_progress(folder, folder.read_state())}; mAP50-95 {self.metrics[MAP50_95]:.4f}; '
            f'{losses}; lr {rate:.2e}; {spent_s:.0f} s'
        )
        job.check_forgetting()

    def _on_train_end(self) -> None:
        self._tracked.finish()


def _finish(job: StageJob) -> StageResult:
    """Make best.pt small and write the result."""
    best = job.weights / 'best.pt'
    if not best.is_file():
        raise ModelError(f'{best} is gone. Delete {job.folder} to train the stage again.')
    result = job.make_result()
    part = best.with_suffix('.part')
    with named_endings(job.stage):
        strip_optimizer(best, s=str(part))
        sync_file(part)
        part.replace(best)
    if result.worse_than_start:
        own = job.record()['start']['own'][job.fitness]
        told = f'best.pt has a lower {job.fitness} than the {own} that the stage started from'
        job.log('warning', 'worse_than_start', told)
    job.note(result=result, ending=None)
    (job.weights / PREVIOUS).unlink(missing_ok=True)
    return result


def _not_finite(epoch: int) -> StageStopped:
    return StageStopped(
        'loss_not_finite',
        f'the loss is no finite number in epoch {epoch + 1}; last.pt is from before. Try a lower '
        'lr0, a longer warm-up, or amp: false.',
    )
