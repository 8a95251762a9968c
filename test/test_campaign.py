"""A campaign's order, state, refusals and endings; trained by a stand-in that takes no time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rendered_sets import copy_sets, smoke_words

from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.layout import read_layout
from cone_perception.types import Detections
from training.campaign import judge
from training.campaign.command import changed_keys
from training.cli import main
from training.judging.predictions import Found, Predictions
from training.judging.signatures import RunFigures, find_signatures
from training.judging.verdict import Outcome
from training.recipe.recipe import Guards
from training.runs.folder import CampaignFolder
from training.stage.guards import StageStopped
from training.stage.job import StageJob, StageResult

ROW = '{epoch},{time},{map50},{map50},1.0,1.0,1.0\n'
HEADER = 'epoch,time,metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss,val/dfl_loss\n'

Train = Callable[[StageJob], None]


class StandIn:
    """Takes the place of training and of networks.

    A stage's weights are a text, the share of cones that they find; `trained` are the jobs done.
    """

    def __init__(self) -> None:
        self.trained: list[StageJob] = []
        self.before: Train = lambda job: None
        self.share = {'stage1': 0.4, 'stage2': 0.9, 'single': 0.6}

    def train_stage(self, job: StageJob) -> StageResult:
        self.before(job)
        self.trained.append(job)
        weights = job.folder / 'weights'
        weights.mkdir(parents=True, exist_ok=True)
        share = self.share.get(job.stage.name, 0.8)
        for name in ('best.pt', 'last.pt'):
            (weights / name).write_text(str(share))
        rows = (ROW.format(epoch=e + 1, time=2.0 * (e + 1), map50=share) for e in range(3))
        (job.folder / 'results.csv').write_text(HEADER + ''.join(rows))
        return StageResult(
            weights / 'best.pt', weights / 'last.pt', 3, None, None, 1, share, share, True, False, 6
        )

    def predict(self, weights: Path, split: Any, *_: Any) -> Predictions:
        share = float(weights.read_text())
        rng = np.random.default_rng(0)
        found = []
        for index in range(len(split)):
            box, cone = split.truth_box_px(index), split.truth_class(index)
            seen = rng.random(len(box)) < share
            score = np.full(int(seen.sum()), 0.9, np.float32)
            found.append(Found(Detections(box[seen], score, cone[seen])))
        return Predictions(CLASS_NAMES, tuple(found), '0', (96, 96), 'anchors', 'none', 'fp32')


def write_nothing(folder: CampaignFolder) -> dict[str, Any]:
    (folder.root / 'reported').touch()
    return {}


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    module = types.ModuleType('training.stage.trainer')
    module.train_stage = stand_in.train_stage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'training.stage.trainer', module)
    monkeypatch.setattr('training.judging.evaluate.predict', stand_in.predict)
    monkeypatch.setattr(judge, 'write_pages', write_nothing)
    monkeypatch.setattr('os.fsync', lambda _: None)
    for plots in ('data.report.write_distributions', 'judging.plots.write_plots'):
        monkeypatch.setattr(f'training.{plots}', lambda *_: None)
    return stand_in


@pytest.fixture
def sets(rendered_sets: Path, tmp_path: Path) -> Path:
    return copy_sets(rendered_sets, tmp_path / 'datasets')


def run(runs: Path, *words: str) -> int:
    return main(['two-stage', *words, '--runs', str(runs)])


def step_names(folder: CampaignFolder) -> list[str]:
    return list(folder.read_state().steps)


ORDER = [
    'verify',
    'leaks',
    'two-stage/seed0/stage1',
    'two-stage/seed0/stage1/evaluate',
    'two-stage/seed0/stage2',
    'two-stage/seed0/stage2/evaluate',
    'single-stage/seed0/single',
    'single-stage/seed0/single/evaluate',
    'two-stage/seed0/test',
    'single-stage/seed0/test',
    'compare',
    'decide',
    'report',
]


def test_campaign_runs_every_step_in_order_and_ends_with_its_outcomes_code(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(tmp_path / 'runs', *smoke_words(sets))
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    state = folder.read_state()
    assert list(state.steps) == ORDER
    assert {step.status for step in state.steps.values()} == {'done'}
    assert code == Outcome.of(str(state.outcome))
    assert Outcome(code).finished
    verdict = json.loads(folder.verdict.read_text())
    assert verdict['outcome'] == state.outcome
    assert set(state.steps['two-stage/seed0/stage1/evaluate'].result) == {
        'stage1_val', 'stage1_target_val',
    }  # fmt: skip
    assert (folder.evaluation('two-stage/seed0', 'test') / 'evaluation.npz').is_file()
    assert state.hardware['cores'] == os.cpu_count()
    assert state.versions['numpy'] == np.__version__
    assert folder.name in capsys.readouterr().out
    # Where the strategy says.
    assert (folder.root / 'stage1_pretrain_3ep' / 'weights' / 'best.pt').is_file()


def test_each_stage_starts_from_the_one_before_and_the_baseline_from_the_network(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    run(tmp_path / 'runs', *smoke_words(sets))
    first, second, single = trainer.trained
    assert Path(first.model).name == Path(single.model).name == 'tiny.yaml'
    assert Path(second.model) == first.folder / 'weights' / 'best.pt'


def test_no_training_is_told_of_a_test_split_and_the_sets_stay_as_they_are(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(sets.rglob('*'))}
    run(tmp_path / 'runs', *smoke_words(sets))
    tests = {path.resolve() for path in sets.glob('*/test/images/*')}
    for job in trainer.trained:
        assert 'test' not in yaml.safe_load(job.data_yaml.read_text())
        layout = read_layout(job.data_yaml)
        used = {path.resolve() for paths in layout.splits.values() for path in paths}
        assert used
        assert not used & tests
    assert {path: path.stat().st_mtime_ns for path in sorted(sets.rglob('*'))} == before


def test_finished_campaign_says_so_and_trains_nothing(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = smoke_words(sets)
    code = run(tmp_path / 'runs', *words)
    trained = len(trainer.trained)
    for again in (words, [*words, '--resume'], ['--resume', '--name', 'smoke']):
        capsys.readouterr()
        assert run(tmp_path / 'runs', *again) == code
        assert 'is finished' in capsys.readouterr().out
    assert len(trainer.trained) == trained


def test_resume_without_a_campaign_is_refused_and_leaves_nothing(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / 'runs', *smoke_words(sets), '--resume') == 1
    assert 'no campaign' in capsys.readouterr().err
    assert not (tmp_path / 'runs').exists()


def fail_in(name: str, error: BaseException) -> Train:
    def act(job: StageJob) -> None:
        if job.stage.name == name:
            raise error

    return act


def test_unfinished_campaign_is_not_started_over(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = smoke_words(sets)
    trainer.before = fail_in('stage2', KeyboardInterrupt())
    assert run(tmp_path / 'runs', *words) == Outcome.INTERRUPTED
    assert run(tmp_path / 'runs', *words) == 1
    assert '--resume' in capsys.readouterr().err
    trainer.before = lambda job: None
    assert Outcome(run(tmp_path / 'runs', *words, '--resume')).finished
    assert [job.stage.name for job in trainer.trained] == ['stage1', 'stage2', 'single']


def test_changed_recipe_is_refused_by_its_keys(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = smoke_words(sets)
    trainer.before = fail_in('stage2', KeyboardInterrupt())
    run(tmp_path / 'runs', *words)
    changed = [*words, 'stage2.lr0=0.0005', 'guards.forgetting_drop=0.1']
    assert run(tmp_path / 'runs', *changed, '--resume') == 1
    error = capsys.readouterr().err
    assert 'stage2.lr0' in error
    assert 'guards.forgetting_drop' in error
    assert 'lrf' not in error


def test_other_machine_may_go_on(trainer: StandIn, sets: Path, tmp_path: Path) -> None:
    words = smoke_words(sets)
    trainer.before = fail_in('stage2', KeyboardInterrupt())
    run(tmp_path / 'runs', *words)
    trainer.before = lambda job: None
    changed = [*words, 'workers=1', 'stage2.batch=2']
    assert Outcome(run(tmp_path / 'runs', *changed, '--resume')).finished
    job = trainer.trained[1]
    assert (job.workers, job.stage.batch) == (1, 2)
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    assert any(event['name'] == 'recipe' for event in folder.read_events())


def test_changed_keys_go_by_names_of_stages() -> None:
    old = {'stages': [{'name': 'a', 'lr0': 1}, {'name': 'b', 'lr0': 1}], 'seeds': [0]}
    new = {'stages': [{'name': 'a', 'lr0': 1}, {'name': 'b', 'lr0': 2}], 'seeds': [0, 1]}
    assert changed_keys(old, new) == ['b.lr0', 'seeds']


def test_second_process_is_refused(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    with folder.lock():
        assert folder.is_locked()
        assert run(tmp_path / 'runs', *smoke_words(sets)) == 1
    assert 'another process' in capsys.readouterr().err
    assert not folder.is_locked()
    assert not trainer.trained


ENDINGS: list[tuple[BaseException, Outcome]] = [
    (OSError(errno.ENOSPC, 'No space left on device'), Outcome.OUT_OF_DISK),
    (StageStopped('disk_full', 'no space'), Outcome.OUT_OF_DISK),
    (StageStopped('out_of_memory', 'too large'), Outcome.OUT_OF_MEMORY),
    (MemoryError(), Outcome.OUT_OF_MEMORY),
    (StageStopped('terminated', 'asked to'), Outcome.INTERRUPTED),
    (StageStopped('loss_not_finite', 'NaN'), Outcome.STOPPED_BY_GUARD),
    (StageStopped('forgetting', 'forgot', ('lower_lr', 'cosine')), Outcome.STOPPED_BY_GUARD),
]


@pytest.mark.parametrize('error, outcome', ENDINGS, ids=lambda value: str(value))
def test_ending_has_its_code_and_goes_on(
    error: BaseException, outcome: Outcome, trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    words = smoke_words(sets)
    trainer.before = fail_in('stage2', error)
    assert run(tmp_path / 'runs', *words) == outcome
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    state = folder.read_state()
    assert state.outcome == outcome.label
    assert state.steps['two-stage/seed0/stage2'].status == 'failed'
    assert state.message
    assert folder.read_events()[-1]['kind'] == 'error'
    trainer.before = lambda job: None
    assert Outcome(run(tmp_path / 'runs', *words, '--resume')).finished


def test_forgetting_names_the_recipes_to_try(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.before = fail_in('stage2', StageStopped('forgetting', 'forgot', ('lower_lr', 'cosine')))
    run(tmp_path / 'runs', *smoke_words(sets))
    assert 'lower_lr, cosine' in capsys.readouterr().out
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    (signature,) = folder.read_state().signatures
    assert signature['remedies'] == ['lower_lr', 'cosine']
    assert (folder.root / 'reported').is_file()


def test_unexpected_error_is_recorded_and_raised(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    trainer.before = fail_in('stage1', ZeroDivisionError('a mistake of ours'))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / 'runs', *smoke_words(sets))
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    assert folder.read_state().outcome is None
    assert 'Traceback' in folder.read_events()[-1]['values']['traceback']


def test_sigterm_ends_it_and_it_goes_on(trainer: StandIn, sets: Path, tmp_path: Path) -> None:
    def act(job: StageJob) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    trainer.before = act
    before = signal.getsignal(signal.SIGTERM)
    assert run(tmp_path / 'runs', *smoke_words(sets)) == Outcome.INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    trainer.before = lambda job: None
    assert Outcome(run(tmp_path / 'runs', *smoke_words(sets), '--resume')).finished


def test_mitigation_takes_the_place_of_a_stage_that_forgot(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    trainer.before = fail_in('stage2', StageStopped('forgetting', 'forgot', ('lower_lr',)))
    words = [*smoke_words(sets), 'guards.on_forgetting=lower_lr']
    assert Outcome(run(tmp_path / 'runs', *words)).finished
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    names = step_names(folder)
    place = names.index('two-stage/seed0/stage2')
    assert names[place + 1 : place + 3] == [
        'two-stage/seed0/stage2_lower_lr',
        'two-stage/seed0/stage2_lower_lr/evaluate',
    ]
    job = trainer.trained[1]
    assert job.stage.lr0 == 0.0005  # what the recipe changes
    assert (job.stage.epochs, job.stage.imgsz) == (2, 96)  # what it leaves as it was
    assert job.folder.name == 'stage2_lower_lr_target_2ep'
    assert Path(job.model) == trainer.trained[0].folder / 'weights' / 'best.pt'
    state = folder.read_state()
    assert [signature['name'] for signature in state.signatures] == ['forgetting']
    assert any(event['name'] == 'mitigation' for event in folder.read_events())


def test_mitigation_that_forgets_too_ends_it(trainer: StandIn, sets: Path, tmp_path: Path) -> None:
    def act(job: StageJob) -> None:
        if job.stage.name.startswith('stage2'):
            raise StageStopped('forgetting', 'forgot')

    trainer.before = act
    words = [*smoke_words(sets), 'guards.on_forgetting=lower_lr']
    assert run(tmp_path / 'runs', *words) == Outcome.STOPPED_BY_GUARD


def test_given_weights_are_judged_on_the_same_pictures(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    weights = tmp_path / 'team.pt'
    weights.write_text('0.1')
    run(tmp_path / 'runs', *smoke_words(sets), '--baseline', f'production={weights}')
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    comparison = json.loads(folder.comparison.read_text())
    assert [entry['b'] for entry in comparison['comparisons']] == ['single-stage', 'production']
    assert comparison['runs']['production'] == ['weights/production']


def test_missing_baseline_is_an_error_before_anything_runs(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / 'runs', *smoke_words(sets), '--baseline', 'production=none.pt') == 1
    assert 'none.pt' in capsys.readouterr().err
    assert not trainer.trained


def test_missing_weights_are_an_error_before_anything_runs(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for weights in ('yolo12n.pt', 'yolo26n.pt'):  # the first leaves nothing to resume
        assert run(tmp_path / 'runs', *smoke_words(sets), f'model={weights}') == 1
        assert f'{weights} are not there' in capsys.readouterr().err
    assert not CampaignFolder(tmp_path / 'runs' / 'smoke').state.exists()
    assert not trainer.trained


def test_seeds_and_a_sweep_have_folders_and_a_candidate_chosen_in_validation(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'sweep.yaml'
    path.write_text('extends: smoke\nsweep: {stage1.fraction: [0, 0.5]}\nseeds: [0, 1]\n')

    def act(job: StageJob) -> None:
        trainer.share['stage2'] = 0.9 if job.run == 'stage1.fraction=0.5/seed1' else 0.3

    trainer.before = act
    words = [str(path), *smoke_words(sets)[1:]]
    assert Outcome(run(tmp_path / 'runs', *words)).finished
    folder = CampaignFolder(tmp_path / 'runs' / 'sweep')
    assert [job.run for job in trainer.trained] == [
        'stage1.fraction=0/seed0',
        'stage1.fraction=0/seed1',
        'stage1.fraction=0.5/seed0',
        'stage1.fraction=0.5/seed0',
        'stage1.fraction=0.5/seed1',
        'stage1.fraction=0.5/seed1',
        'single-stage/seed0',
        'single-stage/seed1',
    ]
    half = trainer.trained[2]
    assert len(read_layout(half.data_yaml).splits['train']) == 4
    assert half.stage.fraction == 1
    assert (folder.root / 'stage1.fraction=0.5' / 'seed1' / 'stage1_pretrain_3ep').is_dir()
    comparison = json.loads(folder.comparison.read_text())
    assert comparison['candidate'] == 'stage1.fraction=0.5'
    assert len(comparison['comparisons']) == 2


def test_crops_are_cut_from_training_pictures_only(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    words = [*smoke_words(sets), 'stage1.crops_per_picture=2', 'stage1.crop_width=192']
    run(tmp_path / 'runs', *words)
    job = trainer.trained[0]
    splits = read_layout(job.data_yaml).splits
    assert len(splits['train']) == 16
    assert len(splits['val']) == 4
    assert 'crops' in step_names(CampaignFolder(tmp_path / 'runs' / 'smoke'))
    assert trainer.trained[1].data_yaml != job.data_yaml


def test_corrupt_label_ends_it_before_anything_is_trained(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = sorted((sets / 'target' / 'val' / 'labels').iterdir())[0]
    label.write_text('0 0.5 0.5 0.1\n')
    words = smoke_words(sets)
    assert run(tmp_path / 'runs', *words) == Outcome.VERIFICATION_FAILED
    assert label.name in capsys.readouterr().out
    assert not trainer.trained
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    assert not json.loads(folder.verification('target').read_text())['ok']
    label.write_text('0 0.5 0.5 0.1 0.1\n')
    assert Outcome(run(tmp_path / 'runs', *words, '--resume')).finished


def test_permuted_classes_are_mapped(trainer: StandIn, sets: Path, tmp_path: Path) -> None:
    data_yaml = sets / 'pretrain' / 'data.yaml'
    content = yaml.safe_load(data_yaml.read_text())
    content['names'] = [name.replace('_', '-') for name in reversed(CLASS_NAMES)]
    data_yaml.write_text(yaml.safe_dump(content))
    before = [int(line.split()[0]) for line in label_lines(sets / 'pretrain' / 'train' / 'labels')]
    run(tmp_path / 'runs', *smoke_words(sets))
    linked = CampaignFolder(tmp_path / 'runs' / 'smoke').data('pretrain') / 'linked'
    after = [int(line.split()[0]) for line in label_lines(linked / 'train' / 'labels')]
    assert after == [4 - number for number in before]
    assert before
    names = yaml.safe_load(trainer.trained[0].data_yaml.read_text())['names']
    assert list(names.values()) == list(CLASS_NAMES)


def label_lines(folder: Path) -> list[str]:
    return [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def test_copy_of_a_test_picture_is_not_trained_on(
    trainer: StandIn, sets: Path, tmp_path: Path
) -> None:
    test = sorted((sets / 'target' / 'test' / 'images').iterdir())[0]
    victim = sorted((sets / 'pretrain' / 'train' / 'images').iterdir())[0]
    shutil.copy(test, victim)
    run(tmp_path / 'runs', *smoke_words(sets))
    trained = [path.name for path in read_layout(trainer.trained[0].data_yaml).splits['train']]
    assert len(trained) == 7
    assert victim.name not in trained
    assert len(read_layout(trainer.trained[1].data_yaml).splits['train']) == 8
    result = CampaignFolder(tmp_path / 'runs' / 'smoke').read_state().steps['leaks'].result
    assert [Path(path).name for path in result['excluded']['pretrain']] == [victim.name]


def test_full_disk_under_the_state_leaves_the_old_one(
    trainer: StandIn, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CampaignFolder(tmp_path / 'runs' / 'smoke')
    full = False

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, 'No space left on device')

    def act(job: StageJob) -> None:
        nonlocal full
        full = True

    monkeypatch.setattr('os.fsync', fsync)
    trainer.before = act
    assert run(tmp_path / 'runs', *smoke_words(sets)) == Outcome.OUT_OF_DISK
    assert folder.read_state().steps['two-stage/seed0/stage1'].status == 'running'
    assert not list(folder.root.glob('.*.part'))
    full, trainer.before = False, lambda job: None
    assert Outcome(run(tmp_path / 'runs', *smoke_words(sets), '--resume')).finished


def test_status_tells_step_epoch_and_time_left(
    trainer: StandIn, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(job: StageJob) -> None:
        if job.stage.name == 'single':
            job.folder.mkdir(parents=True)
            (job.folder / 'results.csv').write_text(
                HEADER + ROW.format(epoch=1, time=7, map50=0.25) + '2,9,0.'
            )
            raise KeyboardInterrupt

    trainer.before = act
    run(tmp_path / 'runs', *smoke_words(sets))
    capsys.readouterr()
    assert main(['status', str(tmp_path / 'runs')]) == 0
    shown = capsys.readouterr().out
    assert '[7/13] single-stage/seed0/single: epoch 1/3, mAP50 0.250' in shown
    assert 'stage 14 s left' in shown
    assert 'interrupted' in shown
    assert main(['status', str(tmp_path / 'runs' / 'smoke'), '--json']) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert not entry['running']
    assert entry['progress']['epoch'] == 1
    assert main(['status', str(tmp_path / 'nothing')]) == 1


def test_event_after_a_line_cut_short_is_read(tmp_path: Path) -> None:
    folder = CampaignFolder(tmp_path)
    folder.log_event('step', 'one', '')
    with folder.events.open('a') as file:
        file.write('{"time": "2026')
    folder.log_event('step', 'two', '')
    assert [event['name'] for event in folder.read_events()] == ['one', 'two']


def test_outcomes_have_codes_of_their_own() -> None:
    codes = [int(outcome) for outcome in Outcome]
    assert len(set(codes)) == len(codes)
    assert not {1, 2} & set(codes)
    assert all(Outcome.of(outcome.label) is outcome for outcome in Outcome)


@pytest.mark.parametrize(
    'figures, expected',
    [
        (RunFigures(source_val=0.76, target_val=0.67, start=0.5), ['overfit']),
        (RunFigures(source_val=0.74, target_val=0.67, start=0.5), []),
        (RunFigures(source_val=0.7, start=0.70, target_val=0.64), ['forgetting']),
        (RunFigures(source_val=0.7, start=0.70, target_val=0.66), []),
        (RunFigures(forgot=True), ['forgetting']),
        (RunFigures(source_val=0.72, target_val=0.7, test=0.69, baseline_test=0.71), ['mismatch']),
        (RunFigures(source_val=0.72, target_val=0.7, test=0.705, baseline_test=0.71), []),
        (RunFigures(source_val=0.72, target_val=0.69, baseline=0.71), ['mismatch']),
        (RunFigures(), []),
    ],
)
def test_signatures_are_the_strategys(figures: RunFigures, expected: list[str]) -> None:
    found = find_signatures('two-stage/seed0', figures, Guards(), 0.01)
    assert [signature.name for signature in found] == expected


def test_rising_validation_loss_is_told_with_forgetting() -> None:
    figures = RunFigures(start=0.7, target_val=0.6, val_losses=(3.0, 2.0, 2.6))
    (found,) = find_signatures('two-stage/seed0', figures, Guards(), 0.01)
    assert 'rose from 2.000 to 2.600' in found.message
