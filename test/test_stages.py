"""A stage: what it trains with, what stops it, and going on after whatever ended it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('ultralytics')

from tiny_yolo import write_architecture, write_data_set  # noqa: E402

from cone_perception.errors import ModelError, RecipeError  # noqa: E402
from cone_perception.files import write_json  # noqa: E402
from training.recipe.recipe import DataSet, Guards, Judging, Recipe, Stage  # noqa: E402
from training.runs.folder import CampaignFolder, State  # noqa: E402
from training.runs.record import MAP50, MAP50_95, read_results  # noqa: E402
from training.stage import trainer as stages  # noqa: E402
from training.stage.guards import GuardError, StageStopped, rate_share  # noqa: E402
from training.stage.job import StageJob, read_job  # noqa: E402
from training.stage.sharded_trainer import PREVIOUS, ShardedLoss, is_whole  # noqa: E402
from training.stage.trainer import StageTrainer, train_stage  # noqa: E402

TINY_STAGE = Stage(
    'stage1', 'tiny', epochs=3, batch=4, imgsz=64, nbs=4, optimizer='AdamW', lr0=2e-3,
    warmup_epochs=1.0, close_mosaic=0, mosaic=0.0,
)  # fmt: skip


@pytest.fixture
def job(tmp_path):
    return make_job(tmp_path)


def make_job(tmp_path: Path) -> StageJob:
    campaign = CampaignFolder(tmp_path / 'campaign')
    campaign.write_state(State('campaign', '', ''))
    recipe = Recipe(
        name='campaign',
        model=str(write_architecture(tmp_path)),
        datasets={name: DataSet(Path(name)) for name in ('tiny', 'other')},
        target='tiny',
        device='cpu',
        stages=(TINY_STAGE,),
        workers=0,
        judging=Judging(imgsz=64),
    )
    data = write_data_set(campaign.data('tiny'))
    return StageJob(campaign.root, recipe, 'two-stage/seed0', TINY_STAGE, recipe.model, data)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished stage of three epochs, and the points of its curves."""
    job = make_job(tmp_path_factory.mktemp('trained'))
    train_stage(job)
    return job


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of it that a test may spoil."""
    job = replace(trained, root=tmp_path / 'copy')
    shutil.copytree(trained.root, job.root, ignore=shutil.ignore_patterns('data'))
    (job.root / 'data').symlink_to(trained.root / 'data')
    places = {name: str(job.weights / f'{name}.pt') for name in ('best', 'last')}
    job.note(result={**job.record()['result'], **places})
    return job


def with_stage(job: StageJob, **changes: Any) -> StageJob:
    return replace(job, stage=replace(job.stage, **changes))


def with_recipe(job: StageJob, **changes: Any) -> StageJob:
    return replace(job, recipe=replace(job.recipe, **changes))


def events(job: StageJob, name: str) -> list[dict[str, Any]]:
    return [event for event in job.campaign.read_events() if event['name'] == name]


def epochs(job: StageJob) -> list[float]:
    return read_results(job.results)['epoch']


Act = Callable[..., object]


def wrap(
    patch: pytest.MonkeyPatch,
    name: str,
    before: Act = lambda *_: None,
    after: Act = lambda *_: None,
    owner: type = StageTrainer,
) -> None:
    """Do something before or after each call of a method, with its arguments."""
    known = getattr(owner, name)

    def step(*values: Any, **named: Any) -> Any:
        before(*values)
        result = known(*values, **named)
        after(*values)
        return result

    patch.setattr(owner, name, step)


RUN = """\
import os, signal, sys
from pathlib import Path
from training.stage.trainer import StageTrainer, read_job, train_stage

job, kill_at = read_job(Path(sys.argv[1])), int(sys.argv[2])
check = StageTrainer._on_train_batch_end

def kill(trainer):
    check(trainer)
    if trainer._batch == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

StageTrainer._on_train_batch_end = kill
train_stage(job)
"""


def run_until_killed(job: StageJob, batch: int) -> None:
    write_json(job.file, job)
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, '-c', RUN, str(job.file), str(batch)],
        env={**os.environ, 'PYTHONPATH': str(repository)},
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_in_mid_epoch_it_goes_on_from_its_last_epoch(job, monkeypatch):
    run_until_killed(job, batch=3)  # two batches an epoch: in the second epoch
    saved = torch.load(job.weights / 'last.pt', weights_only=False)
    assert (saved['epoch'], saved['updates']) == (0, 2)
    seen = {}

    def look(trainer: Any) -> None:
        seen.update(epoch=trainer.start_epoch, updates=trainer.ema.updates, resume=trainer.resume)
        seen.update(steps=[float(s['step']) for s in trainer.optimizer.state.values()])
        seen.update(o2m=[criterion.updates for criterion in trainer.model.loss.criteria])

    wrap(monkeypatch, '_on_train_start', after=look)
    result = train_stage(job)
    assert (seen['epoch'], seen['updates'], seen['resume']) == (1, 2, True)
    assert set(seen['steps']) == {2.0}
    assert set(seen['o2m']) == {1}
    assert epochs(job) == [1, 2, 3]
    assert (result.epochs, result.stopped_by) == (3, None)


def at_batch(patch: pytest.MonkeyPatch, number: int, act: Act) -> None:
    """Do something to the trainer after a batch of the stage, counted from 0."""
    wrap(patch, '_on_train_batch_end', lambda it: act(it) if it._batch == number else None)


def stopped_by(job: StageJob, match: str | None = None) -> str:
    """Train a stage that stops, and return the reason."""
    with pytest.raises(StageStopped, match=match) as stopped:
        train_stage(job)
    return stopped.value.reason


def interrupt(job: StageJob, batch: int = 3) -> None:
    """Train until SIGTERM comes in a batch; two batches are an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        at_batch(patch, batch, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
        assert stopped_by(job) == 'terminated'


def refuse_training(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError('a training was started')

    patch.setattr(stages, 'StageTrainer', refuse)


def test_finished_stage_returns_its_result_and_trains_nothing(finished, monkeypatch):
    refuse_training(monkeypatch)
    result = train_stage(finished)
    assert (result.epochs, result.stopped_by, result.best.is_file()) == (3, None, True)


def test_stage_that_was_killed_before_its_result_only_writes_it(finished, monkeypatch):
    expected = train_stage(finished)
    finished.note(result=None)
    refuse_training(monkeypatch)
    assert train_stage(finished) == expected


def test_stage_whose_patience_ended_does_not_go_on(finished, monkeypatch):
    finished.note(result=None)
    last = finished.weights / 'last.pt'
    saved = torch.load(last, weights_only=False)
    saved['stopper']['best_epoch'] = 1
    torch.save(saved, last)
    refuse_training(monkeypatch)
    longer = with_stage(finished, epochs=9, patience=2)
    finished.folder.rename(longer.folder)
    assert train_stage(longer).stopped_by == 'patience'


def test_rates_of_the_curves_are_the_recipes(trained):
    columns = read_results(trained.results)
    rates = columns['lr/pg0'][1:]  # after one epoch of warm-up
    assert rates == pytest.approx([2e-3 * rate_share(trained.stage, epoch) for epoch in (1, 2)])
    logged = events(trained, 'learning_rates')
    assert [event['values']['lr2'] for event in logged] == pytest.approx(
        columns['lr/pg2'], rel=1e-4
    )
    assert events(trained, 'settings')[0]['values']['optimizer'] == 'AdamW'


def test_checkpoints_hold_nothing_of_this_machine(trained):
    last = torch.load(trained.weights / 'last.pt', weights_only=False)
    assert 'loss' not in vars(last['ema'])
    assert last['ema'].criterion is None
    best = torch.load(trained.weights / 'best.pt', weights_only=False)
    assert best['optimizer'] is None
    assert best['model'].names[4] == 'yellow_cone'
    assert not list(trained.weights.glob('*.part')) + list(trained.weights.glob(PREVIOUS))


def test_job_survives_its_file(job):
    job = with_recipe(job, device=(0, 1), guards=Guards(forgetting_epochs=2))
    write_json(job.file, job)
    assert read_job(job.file) == job
    assert not job.file.is_relative_to(job.folder)


def test_each_epoch_is_counted_once_told_once_and_there_for_tracking(job, monkeypatch, capsys):
    seen: list[tuple[list[float], bool]] = []

    class Tracked:
        def __init__(self, settings: Any, about: Any, source: Path, *_: Any) -> None:
            assert about['name'] == 'two-stage/seed0/stage1'
            self.source = source

        def finish(self, failed: bool = False) -> None:
            columns = read_results(self.source / 'results.csv')
            assert {MAP50, 'train/box_loss', 'val/box_loss', 'lr/pg0'} <= set(columns)
            assert (self.source / 'weights' / 'best.pt').is_file()
            seen.append((columns['epoch'], failed))

    monkeypatch.setattr(stages, 'TrackedRun', Tracked)
    job = with_stage(job, epochs=2)
    train_stage(job)
    told = re.findall(
        r'mAP50-95 0\.\d+; .*box_loss .*; lr .*e-03; \d+ s\n', capsys.readouterr().out
    )
    assert len(told) == 2
    assert seen == [([1, 2], False)]
    assert epochs(job) == [1, 2]


def give_figures(patch: pytest.MonkeyPatch, map50: list[float], map50_95: list[float]) -> None:
    """Let Ultralytics' own validation find these, epoch by epoch."""
    base = stages.ultralytics_trainer.BaseTrainer

    def validate(trainer: Any) -> tuple[dict[str, float], float]:
        metrics = {MAP50: map50[trainer.epoch], MAP50_95: map50_95[trainer.epoch]}
        trainer.best_fitness = max(map50_95[: trainer.epoch + 1])
        return metrics, metrics[MAP50_95]

    patch.setattr(base, 'validate', validate)


@pytest.mark.parametrize(('select_by', 'best'), [('map50', 2), ('map50_95', 1)])
def test_best_weights_are_those_of_the_recipes_figure(job, select_by, best, monkeypatch):
    map50, map50_95 = [0.1, 0.3, 0.2, 0.2], [0.09, 0.08, 0.07, 0.06]
    give_figures(monkeypatch, map50, map50_95)
    job = with_stage(with_recipe(job, select_by=select_by), epochs=4, patience=2)
    result = train_stage(job)
    assert result.best_epoch == best
    assert (result.epochs, result.stopped_by) == ((4, None) if best == 2 else (3, 'patience'))
    saved = torch.load(result.best, weights_only=False)
    assert saved['train_metrics'][MAP50] == map50[best - 1]


def start_from(patch: pytest.MonkeyPatch, map50: float) -> None:
    figures = {MAP50: map50, MAP50_95: map50 / 2}
    patch.setattr(stages, 'validate_start', lambda *_: {'target': figures, 'own': figures})


def test_best_weights_worse_than_the_start_are_told(job, monkeypatch):
    start_from(monkeypatch, 0.9)
    result = train_stage(with_stage(job, epochs=1))
    assert result.worse_than_start
    assert result.start_map50 == 0.9
    assert events(job, 'worse_than_start')


def test_starting_weights_are_judged_by_the_head_that_judges_each_epoch(job, trained, monkeypatch):
    heads: list[tuple[bool, bool]] = []
    from training.judging.validator import UnhurriedValidator

    def look(validator: Any, model: Any) -> None:
        heads.append((validator.training, validator.end2end))

    wrap(monkeypatch, 'init_metrics', after=look, owner=UnhurriedValidator)
    train_stage(with_stage(replace(job, model=trained.weights / 'best.pt'), epochs=1))
    assert heads == [(False, False), (True, False)]
    assert events(job, 'start')[0]['values'][MAP50] >= 0


def test_other_head_in_validation_is_refused(job, monkeypatch):
    assert job.arguments()['nms'] is None
    wrap(monkeypatch, '_on_pretrain_routine_end', lambda it: setattr(it.args, 'nms', False))
    with pytest.raises(GuardError, match='nms is False'):
        train_stage(job)


def test_weights_of_other_classes_are_no_start_to_compare_with(job, trained, tmp_path):
    saved = torch.load(trained.weights / 'best.pt', weights_only=False)
    saved['model'].names = dict(enumerate('abcde'))
    torch.save(saved, tmp_path / 'other.pt')
    found = stages.validate_start(replace(job, model=tmp_path / 'other.pt'), True)
    assert found == {'target': None, 'own': None}


def test_missing_weights_are_not_downloaded(job):
    with pytest.raises(RecipeError, match=r'yolo12n\.pt are not there'):
        train_stage(replace(job, model='yolo12n.pt'))


def test_float16_is_not_tried_with_downloaded_weights(job, monkeypatch):
    def download(model: Any) -> bool:
        raise AssertionError('Ultralytics would download yolo26n.pt')

    monkeypatch.setattr(stages.ultralytics_trainer, 'check_amp', download)
    train_stage(with_stage(job, epochs=1))


def test_optimizer_that_ultralytics_chose_by_itself_stops_the_stage(job, monkeypatch):
    build = StageTrainer.build_optimizer

    def choose(trainer: Any, model: Any, **settings: Any) -> Any:
        return build(trainer, model, **{**settings, 'name': 'SGD'})

    monkeypatch.setattr(StageTrainer, 'build_optimizer', choose)
    with pytest.raises(GuardError, match='SGD instead of AdamW'):
        train_stage(job)
    assert 'SGD' in events(job, 'guard')[0]['message']


@pytest.mark.parametrize(
    ('group', 'rate', 'batch'), [('bias', 0.1, 0), ('weight', 0.01, 2), ('bn', 0.001, 3)]
)
def test_rate_that_is_not_the_recipes_stops_the_stage_in_that_batch(
    job, group, rate, batch, monkeypatch
):
    def change(trainer: Any) -> None:
        for entry in trainer.optimizer.param_groups:
            if entry['param_group'] == group:
                entry['lr'] = rate

    at_batch(monkeypatch, batch, change)
    with pytest.raises(GuardError, match=rf'\({group}\) learns at {rate} in batch {batch}'):
        train_stage(job)


def test_other_accumulation_than_the_recipes_stops_the_stage(job, monkeypatch):
    wrap(monkeypatch, '_build_train_pipeline', after=lambda it: setattr(it, 'accumulate', 2))
    with pytest.raises(GuardError, match='2 batches make an optimizer step instead of 1'):
        train_stage(job)


def fail_on_call(patch: pytest.MonkeyPatch, number: int, error: Exception) -> list[int]:
    """Raise in the forward pass of one batch, where a GPU would. Returns the batches seen."""
    sizes = []

    def look(loss: ShardedLoss, batch: dict[str, Any]) -> None:
        sizes.append(len(batch['img']))
        if len(sizes) == number:
            raise error

    wrap(patch, '__call__', look, owner=ShardedLoss)
    return sizes


def test_out_of_memory_does_not_halve_the_batch(job, monkeypatch):
    error = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.')
    sizes = fail_on_call(monkeypatch, 1, error)
    assert stopped_by(job, r'stage1\.batch=2') == 'out_of_memory'
    assert sizes == [4]
    assert events(job, 'out_of_memory')


def test_stage_goes_on_with_the_smaller_batch_of_its_recipe(job):
    with pytest.MonkeyPatch.context() as patch:
        fail_on_call(patch, 3, torch.OutOfMemoryError('CUDA out of memory.'))
        stopped_by(job)
    assert train_stage(with_stage(job, batch=2)).epochs == 3


def test_loss_that_is_no_number_ends_the_stage_at_once(job, monkeypatch):
    compute, calls = ShardedLoss.__call__, []

    def loss(self: Any, batch: dict[str, Any]) -> Any:
        calls.append(1)
        value, items = compute(self, batch)
        return (value * float('nan') if len(calls) == 3 else value), items

    monkeypatch.setattr(ShardedLoss, '__call__', loss)
    assert (stopped_by(job, 'in epoch 2'), len(calls)) == ('loss_not_finite', 3)
    monkeypatch.undo()
    assert train_stage(job).epochs == 3


def test_forgetting_ends_the_stage_and_names_what_to_try(job, monkeypatch):
    start_from(monkeypatch, 0.7)
    give_figures(monkeypatch, [0.69, 0.6, 0.6, 0.6], [0.1] * 4)
    job = with_stage(with_recipe(job, guards=Guards(forgetting_epochs=2)), epochs=4)
    for _ in range(2):  # started again, it does not go on
        assert stopped_by(job, r'after epoch 3; it was 0\.700') == 'forgetting'
    assert epochs(job) == [1, 2, 3]
    assert job.record()['ending']['reason'] == 'forgetting'


def test_forgetting_the_target_is_no_matter_on_other_pictures(job, tmp_path, monkeypatch):
    start_from(monkeypatch, 0.7)
    give_figures(monkeypatch, [0.1] * 2, [0.1] * 2)
    write_data_set(job.campaign.data('other'))
    job = with_recipe(job, target='other', guards=Guards(forgetting_epochs=1))
    assert not train_stage(with_stage(job, epochs=2)).on_target


def test_full_disk_leaves_the_old_checkpoint_whole(job):
    write = Path.write_bytes

    def write_half(path: Path, content: bytes) -> int:
        if path.name == 'last.part' and (job.weights / 'last.pt').is_file():
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        return write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, 'write_bytes', write_half)
        assert stopped_by(job) == 'disk_full'
    assert is_whole(job.weights / 'last.pt')
    assert torch.load(job.weights / 'last.pt', weights_only=False)['epoch'] == 0
    assert not list(job.weights.glob('*.part'))
    assert train_stage(job).epochs == 3
    assert epochs(job) == [1, 2, 3]


def test_sigterm_ends_the_stage_and_it_goes_on_in_its_own_folder(job, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    interrupt(job)
    assert signal.getsignal(signal.SIGTERM) is before
    newer = tmp_path / 'campaign' / 'another' / 'weights' / 'last.pt'
    newer.parent.mkdir(parents=True)
    newer.write_bytes(b'Ultralytics would take the newest one')
    result = train_stage(job)
    assert (result.epochs, result.last.parent.parent) == (3, job.folder)


def test_truncated_checkpoint_is_noticed_and_the_one_before_taken(job):
    interrupt(job, batch=5)  # in the third epoch
    last = job.weights / 'last.pt'
    last.write_bytes(last.read_bytes()[:-1000])
    assert torch.load(job.weights / PREVIOUS, weights_only=False)['epoch'] == 0
    assert train_stage(job).epochs == 3
    assert events(job, 'checkpoint_damaged')
    assert epochs(job) == [1, 2, 3]


def test_stage_with_no_readable_checkpoint_does_not_start_anew(finished, monkeypatch):
    finished.note(result=None)
    last = finished.weights / 'last.pt'
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 255
    last.write_bytes(content)
    refuse_training(monkeypatch)
    with pytest.raises(ModelError, match=r'last\.pt cannot be read'):
        train_stage(finished)


def test_checkpoint_of_another_recipe_is_refused(job):
    interrupt(job)
    with pytest.raises(GuardError, match=r'lr0 is 0\.002 instead of 0\.01'):
        train_stage(with_stage(job, lr0=0.01))


def test_training_reaches_no_host(job, monkeypatch):
    with socket.create_server(('127.61.3.8', 0)) as listener:
        for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'):
            monkeypatch.setenv(name, 'http://{}:{}'.format(*listener.getsockname()))
        listener.settimeout(0.2)
        train_stage(with_stage(job, epochs=1))
        with pytest.raises(TimeoutError):
            pytest.fail(f'called: {listener.accept()[0].recv(1000)!r}')


def test_ultralytics_still_has_the_private_methods_that_are_overridden():
    from ultralytics.models.yolo.detect import DetectionTrainer

    ours = {*vars(StageTrainer), *vars(StageTrainer.__mro__[1])}
    for name in ('_setup_train', '_do_train', '_handle_nan_recovery'):
        assert name in ours
        assert hasattr(DetectionTrainer, name)


@pytest.fixture
def launched_here(monkeypatch):
    """A trainer that launches Ultralytics' own file for child processes: one, without GPUs.

    What it cannot show is the processes' talk with each other: that needs GPUs.
    """
    pytest.importorskip('cloudpickle')
    from ultralytics.utils.dist import generate_ddp_file

    def command(trainer: Any) -> tuple[list[str], str]:
        shutil.rmtree(trainer.save_dir)
        file = generate_ddp_file(trainer)
        return [sys.executable, file], file

    monkeypatch.setattr(stages, 'generate_ddp_command', command)
    wrap(monkeypatch, '__init__', after=lambda it: setattr(it, 'ddp', True))


@pytest.mark.slow
@pytest.mark.usefixtures('launched_here')
def test_child_process_trains_with_all_guards(job):
    assert train_stage(with_stage(job, epochs=1)).epochs == 1
    assert events(job, 'settings')
    assert events(job, 'learning_rates')


@pytest.mark.slow
@pytest.mark.usefixtures('launched_here')
def test_what_stops_a_child_process_is_told_by_its_parent(job, monkeypatch):
    other = with_stage(job, lr0=0.5)
    wrap(monkeypatch, 'train', lambda trainer: write_json(job.file, other))
    with pytest.raises(GuardError, match=r'lr0 is 0\.002 instead of 0\.5'):
        train_stage(job)
