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
    """The smoke campaign in a folder, where texts take the place of training and of networks.

    A stage's weights are the share of cones that they find; `trained` are the jobs done.
    """

    def __init__(self, sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.sets = sets
        self.folder = CampaignFolder(sets.parent / 'runs' / 'smoke')
        self.trained: list[StageJob] = []
        self.before: Train = lambda job: None
        self.share = {'stage1': 0.4, 'stage2': 0.9, 'single': 0.6}

    def run(self, *words: str) -> int:
        return run(self.folder.root.parent, *smoke_words(self.sets), *words)

    def resume(self, *words: str) -> Outcome:
        """Go on, and train undisturbed."""
        self.before = lambda job: None
        return Outcome(self.run(*words, '--resume'))

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
def campaign(rendered_sets, tmp_path, monkeypatch, capsys):
    stand_in = StandIn(copy_sets(rendered_sets, tmp_path / 'datasets'), capsys)
    module = types.ModuleType('training.stage.trainer')
    module.train_stage = stand_in.train_stage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'training.stage.trainer', module)
    monkeypatch.setattr('training.judging.evaluate.predict', stand_in.predict)
    monkeypatch.setattr(judge, 'write_pages', write_nothing)
    monkeypatch.setattr('os.fsync', lambda _: None)
    monkeypatch.setattr('training.judging.page.write_page', lambda *_: None)
    return stand_in


def run(runs: Path, *words: str) -> int:
    return main(['two-stage', *words, '--runs', str(runs)])


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


def test_campaign_runs_every_step_in_order_and_ends_with_its_outcomes_code(campaign):
    code = campaign.run()
    state = campaign.folder.read_state()
    assert list(state.steps) == ORDER
    assert {step.status for step in state.steps.values()} == {'done'}
    assert code == Outcome.of(str(state.outcome))
    assert Outcome(code).finished
    verdict = json.loads(campaign.folder.verdict.read_text())
    assert verdict['outcome'] == state.outcome
    assert set(state.steps['two-stage/seed0/stage1/evaluate'].result) == {
        'stage1_val', 'stage1_target_val',
    }  # fmt: skip
    assert (campaign.folder.evaluation('two-stage/seed0', 'test') / 'evaluation.npz').is_file()
    assert state.hardware['cores'] == os.cpu_count()
    assert state.versions['numpy'] == np.__version__
    assert campaign.folder.name in campaign.capsys.readouterr().out
    # Where the strategy says.
    assert (campaign.folder.root / 'stage1_pretrain_3ep' / 'weights' / 'best.pt').is_file()


def test_each_stage_starts_from_the_one_before_and_the_baseline_from_the_network(campaign):
    campaign.run()
    first, second, single = campaign.trained
    assert Path(first.model).name == Path(single.model).name == 'tiny.yaml'
    assert Path(second.model) == first.folder / 'weights' / 'best.pt'


def test_no_training_is_told_of_a_test_split_and_the_sets_stay_as_they_are(campaign):
    before = {path: path.stat().st_mtime_ns for path in sorted(campaign.sets.rglob('*'))}
    campaign.run()
    tests = {path.resolve() for path in campaign.sets.glob('*/test/images/*')}
    for job in campaign.trained:
        assert 'test' not in yaml.safe_load(job.data_yaml.read_text())
        layout = read_layout(job.data_yaml)
        used = {path.resolve() for paths in layout.splits.values() for path in paths}
        assert used
        assert not used & tests
    assert {path: path.stat().st_mtime_ns for path in sorted(campaign.sets.rglob('*'))} == before


def test_finished_campaign_says_so_and_trains_nothing(campaign):
    words = smoke_words(campaign.sets)
    code = campaign.run()
    trained = len(campaign.trained)
    for again in (words, [*words, '--resume'], ['--resume', '--name', 'smoke']):
        campaign.capsys.readouterr()
        assert run(campaign.folder.root.parent, *again) == code
        assert 'is finished' in campaign.capsys.readouterr().out
    assert len(campaign.trained) == trained


def test_resume_without_a_campaign_is_refused_and_leaves_nothing(campaign):
    assert campaign.run('--resume') == 1
    assert 'no campaign' in campaign.capsys.readouterr().err
    assert not campaign.folder.root.parent.exists()


def fail_in(name: str, error: BaseException) -> Train:
    def act(job: StageJob) -> None:
        if job.stage.name == name:
            raise error

    return act


@pytest.fixture
def interrupted(campaign):
    """A campaign that was interrupted in its second stage."""
    campaign.before = fail_in('stage2', KeyboardInterrupt())
    assert campaign.run() == Outcome.INTERRUPTED
    return campaign


def test_unfinished_campaign_is_not_started_over(interrupted):
    assert interrupted.run() == 1
    assert '--resume' in interrupted.capsys.readouterr().err
    assert interrupted.resume().finished
    assert [job.stage.name for job in interrupted.trained] == ['stage1', 'stage2', 'single']


def test_changed_recipe_is_refused_by_its_keys(interrupted):
    assert interrupted.run('stage2.lr0=0.0005', 'guards.forgetting_drop=0.1', '--resume') == 1
    error = interrupted.capsys.readouterr().err
    assert 'stage2.lr0' in error
    assert 'guards.forgetting_drop' in error
    assert 'lrf' not in error


def test_other_machine_may_go_on(interrupted):
    assert interrupted.resume('workers=1', 'stage2.batch=2').finished
    job = interrupted.trained[1]
    assert (job.recipe.workers, job.stage.batch) == (1, 2)
    assert any(event['name'] == 'recipe' for event in interrupted.folder.read_events())


def test_changed_keys_go_by_names_of_stages():
    old = {'stages': [{'name': 'a', 'lr0': 1}, {'name': 'b', 'lr0': 1}], 'seeds': [0]}
    new = {'stages': [{'name': 'a', 'lr0': 1}, {'name': 'b', 'lr0': 2}], 'seeds': [0, 1]}
    assert changed_keys(old, new) == ['b.lr0', 'seeds']


def test_second_process_is_refused(campaign):
    with campaign.folder.lock():
        assert campaign.folder.is_locked()
        assert campaign.run() == 1
    assert 'another process' in campaign.capsys.readouterr().err
    assert not campaign.folder.is_locked()
    assert not campaign.trained


ENDINGS: list[tuple[BaseException, Outcome]] = [
    (OSError(errno.ENOSPC, 'No space left on device'), Outcome.OUT_OF_DISK),
    (StageStopped('disk_full', 'no space'), Outcome.OUT_OF_DISK),
    (StageStopped('out_of_memory', 'too large'), Outcome.OUT_OF_MEMORY),
    (MemoryError(), Outcome.OUT_OF_MEMORY),
    (StageStopped('terminated', 'asked to'), Outcome.INTERRUPTED),
    (StageStopped('loss_not_finite', 'NaN'), Outcome.STOPPED_BY_GUARD),
    (StageStopped('forgetting', 'forgot'), Outcome.STOPPED_BY_GUARD),
]


@pytest.mark.parametrize('error, outcome', ENDINGS, ids=lambda value: str(value))
def test_ending_has_its_code_and_goes_on(error, outcome, campaign):
    campaign.before = fail_in('stage2', error)
    assert campaign.run() == outcome
    state = campaign.folder.read_state()
    assert state.outcome == outcome.label
    assert state.steps['two-stage/seed0/stage2'].status == 'failed'
    assert state.message
    assert campaign.folder.read_events()[-1]['kind'] == 'error'
    assert campaign.resume().finished


def test_forgetting_names_the_recipes_to_try(campaign):
    campaign.before = fail_in('stage2', StageStopped('forgetting', 'forgot'))
    campaign.run()
    assert 'lower_lr, cosine' in campaign.capsys.readouterr().out
    (signature,) = campaign.folder.read_state().signatures
    assert signature['remedies'] == ['lower_lr', 'cosine']
    assert (campaign.folder.root / 'reported').is_file()


def test_unexpected_error_is_recorded_and_told(campaign, capsys):
    campaign.before = fail_in('stage1', ZeroDivisionError('a mistake of ours'))
    assert campaign.run() == 1
    assert 'unforeseen: ZeroDivisionError' in capsys.readouterr().err
    assert campaign.folder.read_state().outcome is None
    assert 'Traceback' in campaign.folder.read_events()[-1]['values']['traceback']


def test_sigterm_ends_it_and_it_goes_on(campaign):
    campaign.before = lambda job: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    assert campaign.run() == Outcome.INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    assert campaign.resume().finished


def test_mitigation_takes_the_place_of_a_stage_that_forgot(campaign):
    campaign.before = fail_in('stage2', StageStopped('forgetting', 'forgot'))
    assert Outcome(campaign.run('guards.on_forgetting=lower_lr')).finished
    names = list(campaign.folder.read_state().steps)
    place = names.index('two-stage/seed0/stage2')
    assert names[place + 1 : place + 3] == [
        'two-stage/seed0/stage2_lower_lr',
        'two-stage/seed0/stage2_lower_lr/evaluate',
    ]
    job = campaign.trained[1]
    assert job.stage.lr0 == 0.0005  # what the recipe changes
    assert (job.stage.epochs, job.stage.imgsz) == (2, 96)  # what it leaves as it was
    assert job.folder.name == 'stage2_lower_lr_target_2ep'
    assert Path(job.model) == campaign.trained[0].folder / 'weights' / 'best.pt'
    state = campaign.folder.read_state()
    assert [signature['name'] for signature in state.signatures] == ['forgetting']
    assert any(event['name'] == 'mitigation' for event in campaign.folder.read_events())


def test_mitigation_that_forgets_too_ends_it(campaign):
    def act(job: StageJob) -> None:
        if job.stage.name.startswith('stage2'):
            raise StageStopped('forgetting', 'forgot')

    campaign.before = act
    assert campaign.run('guards.on_forgetting=lower_lr') == Outcome.STOPPED_BY_GUARD


def test_given_weights_are_judged_on_the_same_pictures(campaign):
    weights = campaign.sets.parent / 'team.pt'
    weights.write_text('0.1')
    campaign.run('--baseline', f'production={weights}')
    comparison = json.loads(campaign.folder.comparison.read_text())
    assert [entry['b'] for entry in comparison['comparisons']] == ['single-stage', 'production']
    assert comparison['runs']['production'] == ['weights/production']


def test_missing_weights_are_an_error_before_anything_runs(campaign):
    for words, told in (
        (['--baseline', 'production=none.pt'], 'none.pt'),
        (['model=yolo12n.pt'], 'yolo12n.pt are not there'),  # which leaves nothing to resume
        (['model=yolo26n.pt'], 'yolo26n.pt are not there'),
    ):
        assert campaign.run(*words) == 1
        assert told in campaign.capsys.readouterr().err
    assert not campaign.folder.state.exists()
    assert not campaign.trained


def test_seeds_and_a_sweep_have_folders_and_a_candidate_chosen_in_validation(campaign):
    path = campaign.sets.parent / 'sweep.yaml'
    path.write_text('extends: smoke\nsweep: {stage1.fraction: [0, 0.5]}\nseeds: [0, 1]\n')

    def act(job: StageJob) -> None:
        campaign.share['stage2'] = 0.9 if job.run == 'stage1.fraction=0.5/seed1' else 0.3

    campaign.before = act
    runs = campaign.folder.root.parent
    assert Outcome(run(runs, str(path), *smoke_words(campaign.sets)[1:])).finished
    folder = CampaignFolder(runs / 'sweep')
    assert [job.run for job in campaign.trained] == [
        'stage1.fraction=0/seed0',
        'stage1.fraction=0/seed1',
        'stage1.fraction=0.5/seed0',
        'stage1.fraction=0.5/seed0',
        'stage1.fraction=0.5/seed1',
        'stage1.fraction=0.5/seed1',
        'single-stage/seed0',
        'single-stage/seed1',
    ]
    half = campaign.trained[2]
    assert len(read_layout(half.data_yaml).splits['train']) == 4
    assert half.stage.fraction == 1
    assert (folder.root / 'stage1.fraction=0.5' / 'seed1' / 'stage1_pretrain_3ep').is_dir()
    comparison = json.loads(folder.comparison.read_text())
    assert comparison['candidate'] == 'stage1.fraction=0.5'
    assert len(comparison['comparisons']) == 2


def test_crops_are_cut_from_training_pictures_only(campaign):
    campaign.run('stage1.crops_per_picture=2', 'stage1.crop_widths=[192, 384]')
    job = campaign.trained[0]
    splits = read_layout(job.data_yaml).splits
    assert len(splits['train']) == 16
    assert len(splits['val']) == 4
    assert 'crops' in campaign.folder.read_state().steps
    assert campaign.trained[1].data_yaml != job.data_yaml


def test_corrupt_label_ends_it_before_anything_is_trained(campaign):
    label = sorted((campaign.sets / 'target' / 'val' / 'labels').iterdir())[0]
    label.write_text('0 0.5 0.5 0.1\n')
    assert campaign.run() == Outcome.VERIFICATION_FAILED
    assert label.name in campaign.capsys.readouterr().out
    assert not campaign.trained
    assert not json.loads((campaign.folder.data('target') / 'verify.json').read_text())['ok']
    label.write_text('0 0.5 0.5 0.1 0.1\n')
    assert campaign.resume().finished


def test_permuted_classes_are_mapped(campaign):
    data_yaml = campaign.sets / 'pretrain' / 'data.yaml'
    content = yaml.safe_load(data_yaml.read_text())
    content['names'] = [name.replace('_', '-') for name in reversed(CLASS_NAMES)]
    data_yaml.write_text(yaml.safe_dump(content))
    before = label_classes(campaign.sets / 'pretrain')
    campaign.run()
    after = label_classes(campaign.folder.data('pretrain') / 'linked')
    assert after == [4 - number for number in before]
    assert before
    names = yaml.safe_load(campaign.trained[0].data_yaml.read_text())['names']
    assert list(names.values()) == list(CLASS_NAMES)


def label_classes(dataset: Path) -> list[int]:
    labels = sorted((dataset / 'train' / 'labels').iterdir())
    return [int(line.split()[0]) for path in labels for line in path.read_text().splitlines()]


def test_copy_of_a_test_picture_is_not_trained_on(campaign):
    test = sorted((campaign.sets / 'target' / 'test' / 'images').iterdir())[0]
    victim = sorted((campaign.sets / 'pretrain' / 'train' / 'images').iterdir())[0]
    shutil.copy(test, victim)
    campaign.run()
    trained = [path.name for path in read_layout(campaign.trained[0].data_yaml).splits['train']]
    assert len(trained) == 7
    assert victim.name not in trained
    assert len(read_layout(campaign.trained[1].data_yaml).splits['train']) == 8
    result = campaign.folder.read_state().steps['leaks'].result
    assert [Path(path).name for path in result['excluded']['pretrain']] == [victim.name]


def test_full_disk_under_the_state_leaves_the_old_one(campaign, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    campaign.before = lambda job: monkeypatch.setattr('os.fsync', refuse)
    assert campaign.run() == Outcome.OUT_OF_DISK
    assert campaign.folder.read_state().steps['two-stage/seed0/stage1'].status == 'running'
    assert not list(campaign.folder.root.glob('.*.part'))
    monkeypatch.setattr('os.fsync', lambda _: None)
    assert campaign.resume().finished


def test_status_tells_step_epoch_and_time_left(campaign):
    def act(job: StageJob) -> None:
        if job.stage.name == 'single':
            job.folder.mkdir(parents=True)
            (job.folder / 'results.csv').write_text(
                HEADER + ROW.format(epoch=1, time=7, map50=0.25) + '2,9,0.'
            )
            raise KeyboardInterrupt

    campaign.before = act
    campaign.run()
    campaign.capsys.readouterr()
    assert main(['status', str(campaign.folder.root.parent)]) == 0
    shown = campaign.capsys.readouterr().out
    assert '[7/13] single-stage/seed0/single: epoch 1/3, mAP50 0.250' in shown
    assert 'stage 14 s left' in shown
    assert 'interrupted' in shown
    assert main(['status', str(campaign.folder.root), '--json']) == 0
    (entry,) = json.loads(campaign.capsys.readouterr().out)
    assert not entry['running']
    assert entry['progress']['epoch'] == 1
    assert main(['status', str(campaign.folder.root / 'nothing')]) == 1


def test_event_after_a_line_cut_short_is_read(tmp_path):
    folder = CampaignFolder(tmp_path)
    folder.log_event('step', 'one', '')
    with folder.events.open('a') as file:
        file.write('{"time": "2026')
    folder.log_event('step', 'two', '')
    assert [event['name'] for event in folder.read_events()] == ['one', 'two']


def test_outcomes_have_codes_of_their_own():
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
def test_signatures_are_the_strategys(figures, expected):
    found = find_signatures('two-stage/seed0', figures, Guards(), 0.01)
    assert [signature.name for signature in found] == expected


def test_rising_validation_loss_is_told_with_forgetting():
    figures = RunFigures(start=0.7, target_val=0.6, val_losses=(3.0, 2.0, 2.6))
    (found,) = find_signatures('two-stage/seed0', figures, Guards(), 0.01)
    assert 'rose from 2.000 to 2.600' in found.message
