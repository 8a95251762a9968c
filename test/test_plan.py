"""Tests what `cone-training plan` promises, against what Ultralytics does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_data import plant

from training.campaign import plan as plans
from training.campaign.cost import known_cost, measure_cost
from training.campaign.plan import (
    MISSING,
    CampaignPlan,
    count_batches,
    make_plan,
    optimizer_steps,
    stage_rates,
)
from training.cli import main
from training.recipe.load import find_recipe, load_recipe
from training.recipe.recipe import Stage
from training.stage.guards import warmup_batches

SHIPPED = Path(__file__).parents[1] / 'config' / 'training'
PICTURES = {'train': 10, 'val': 2, 'test': 2}


def smoke_plan(folder: Path, *overrides: str) -> CampaignPlan:
    for name in ('pretrain', 'target'):
        plant(folder / name, {'train': 32, 'val': 2, 'test': 2})
    counts = [
        f'datasets.{name}.images.{split}=2'
        for name in ('pretrain', 'target')
        for split in ('val', 'test')
    ]
    settings = [f'data_root={folder}', *counts, *overrides]
    return make_plan(load_recipe(find_recipe('smoke'), settings), folder / 'runs' / 'smoke')


PLAIN = Stage('s', 'd', 4, batch=4, nbs=16, imgsz=64, lrf=0.1, warmup_epochs=1.5)


@pytest.mark.parametrize(
    'stage',
    [
        PLAIN,
        replace(PLAIN, epochs=3, nbs=4, lr0=1e-3, warmup_bias_lr=5e-4, optimizer='AdamW'),
        replace(PLAIN, epochs=2, batch=5, nbs=12, optimizer='MuSGD', cos_lr=True, warmup_epochs=9),
        replace(PLAIN, epochs=2, nbs=64, warmup_epochs=0),
    ],
    ids=['accumulates', 'bias', 'muon', 'no warm-up'],
)
def test_rates_and_steps_are_those_of_a_real_training(stage, tmp_path):
    pytest.importorskip('ultralytics')
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics.models.yolo.detect import DetectionTrainer

    from training.stage.guards import arguments

    steps = 0
    seen: list[dict[str, list[float]]] = []

    class Watched(DetectionTrainer):  # type: ignore[misc]
        def optimizer_step(self) -> None:
            nonlocal steps
            steps += 1
            super().optimizer_step()

        def validate(self) -> tuple[dict[str, float], float]:
            return {}, 0.0

        def final_eval(self) -> None:
            pass

    def watch(trainer: Any) -> None:
        rates: dict[str, list[float]] = {}
        for group in trainer.optimizer.param_groups:
            if group['params']:
                rates.setdefault(group['param_group'], []).append(group['lr'])
        seen.append(rates)

    settings = arguments(stage) | {
        'data': str(plant(tmp_path / 'data', PICTURES) / 'data.yaml'),
        'model': str(SHIPPED / 'tiny.yaml'),
        'project': str(tmp_path),
        'device': 'cpu',
        'amp': False,
        'workers': 0,
        'plots': False,
        'save': False,
    }
    trainer = Watched(overrides=settings)
    trainer.add_callback('on_train_batch_end', watch)
    trainer.train()

    batches = count_batches(PICTURES['train'], stage.batch)
    assert len(seen) == batches * stage.epochs
    assert steps == optimizer_steps(stage, batches)
    heads = [stage.lr0] if stage.optimizer != 'MuSGD' else [stage.lr0, 3 * stage.lr0]
    warm = warmup_batches(stage, batches)
    for name in seen[0]:
        expected = [stage_rates(stage, batches, peak, name == 'bias') for peak in heads]
        for batch, moment in ((0, 'start'), (warm, 'warm'), (-1, 'last')):
            found = sorted(set(seen[batch][name]))
            wanted = sorted({getattr(rates, moment) for rates in expected})
            # A group may lack the class head or have nothing else.
            assert all(any(rate == pytest.approx(one) for one in wanted) for rate in found)
    assert {'weight', 'bn', 'bias'} <= set(seen[0]) or stage.optimizer == 'MuSGD'


def test_final_rate_is_a_share_of_the_first_and_never_quite_reached():
    stage = load_recipe(find_recipe('two_stage')).stages[1]
    rates = stage_rates(stage, 112, stage.lr0, bias=False)
    assert rates.final == pytest.approx(1e-6)
    assert rates.last == pytest.approx(0.001 * (0.999 / 150 + 0.001))
    assert rates.start == 0


def test_ultralytics_own_bias_warmup_would_show():
    stage = Stage('s', 'd', 10, lr0=0.1, warmup_bias_lr=0.1)
    assert stage_rates(stage, 10, stage.lr0, bias=True).start == 0.1
    assert stage_rates(stage, 10, stage.lr0, bias=False).start == 0


def test_gpus_share_the_pictures_and_the_batch():
    assert count_batches(7120, 64) == 112
    assert count_batches(7120, 64, 2) == 112
    assert count_batches(7121, 64, 3) == 114


def test_small_batches_gather_before_a_step():
    stage = Stage('s', 'd', 10, batch=16, nbs=64, warmup_epochs=0)
    assert optimizer_steps(stage, 100) == 250
    assert optimizer_steps(replace(stage, batch=64), 25) == 250
    warmed = optimizer_steps(replace(stage, warmup_epochs=3.0), 100)
    assert 250 < warmed < 400


def test_two_stage_has_the_strategys_steps_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load_recipe(find_recipe('two_stage')), Path('runs/two-stage'))
    first, second = plan.stages
    assert (first.steps, second.steps) == (62600, 16800)
    assert (first.images, second.images) == (3_995_000, 1_068_000)
    assert first.folders == (Path('runs/two-stage/stage1_cone_detector_200ep'),)
    assert second.folders == (Path('runs/two-stage/stage2_fsoco12_150ep'),)
    assert first.counted == 'expected by the recipe'
    assert list(tmp_path.iterdir()) == []


def test_everything_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plans, 'read_gpus', list)
    assert main(['plan', 'two_stage']) == MISSING
    printed = capsys.readouterr().out
    for told in (
        f'weights {tmp_path}/yolo12n.pt are not there',
        'data fetch cone-detector',
        'data fetch FSOCO-12',
        'GPU 0: the NVIDIA driver shows 0 here',
    ):
        assert told in printed


def test_pictures_are_counted_on_disk_and_compared(tmp_path):
    plan = smoke_plan(tmp_path, 'datasets.target.images.train=33')
    assert [stage.pictures for stage in plan.stages] == [32, 32, 32]
    assert {stage.counted for stage in plan.stages} == {'on disk'}
    (told,) = plan.missing
    assert 'train has 32 pictures, the recipe says 33' in told


def test_share_and_crops_make_the_epochs_pictures(tmp_path):
    plan = smoke_plan(tmp_path, 'stage1.fraction=0.25', 'stage1.crops_per_picture=3')
    assert plan.stages[0].pictures == 24
    assert not plan.missing


def test_each_seed_has_a_folder(tmp_path):
    plan = smoke_plan(tmp_path, 'seeds=[0, 1]')
    assert [folder.parent.name for folder in plan.stages[0].folders] == ['seed0', 'seed1']
    folders = [folder for stage in plan.stages for folder in stage.folders]
    assert len(set(folders)) == len(folders) == 6


def test_cost_is_looked_up_scaled_or_unknown_and_says_which():
    mini = load_recipe(find_recipe('mini'))
    known = known_cost(mini, mini.stages[0])
    assert (known.s_per_image, known.memory_gb) == (0.051, 1.6)
    assert 'float32' in known.basis
    bfloat16 = known_cost(replace(mini, amp=True), mini.stages[0])
    assert (bfloat16.s_per_image, bfloat16.memory_gb) == (0.025, 1.1)
    assert 'bfloat16' in bfloat16.basis
    unknown = known_cost(replace(mini, model='yolo12n.pt'), mini.stages[0])
    assert unknown.s_per_image is None
    assert 'yolo12n with amp=false' in unknown.basis
    scaled = known_cost(mini, replace(mini.stages[0], imgsz=640))
    assert scaled.s_per_image == pytest.approx(4 * 0.051)
    assert scaled.memory_gb == pytest.approx(0.5 + 4 * 1.1)
    assert 'at 320 px, scaled to 640 px' in scaled.basis
    gpu = replace(mini, device=0)
    assert known_cost(gpu, mini.stages[0]).s_per_image is None
    assert known_cost(gpu, mini.stages[0]).memory_gb == pytest.approx(1.6)
    two = replace(gpu, device=(0, 1), amp=True, model='yolo12n.pt')
    assert known_cost(two, mini.stages[0]).memory_gb == pytest.approx(0.5 + 0.6 / 2)
    assert 'does not name' in known_cost(replace(gpu, model='yolo12n.pt'), mini.stages[0]).basis


def test_measuring_times_steps_of_the_recipes_network():
    pytest.importorskip('ultralytics')
    smoke = load_recipe(find_recipe('smoke'))
    cost = measure_cost(smoke, replace(smoke.stages[0], imgsz=64, batch=2))
    assert cost.s_per_image is not None
    assert cost.s_per_image > 0
    assert '3 steps of 2 pictures measured on cpu' in cost.basis


def test_json_holds_the_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['plan', 'smoke', '--json', '--name', 'mine']) == MISSING
    found = json.loads(capsys.readouterr().out)
    assert found['folder'] == 'runs/mine'
    assert found['stages'][0]['weights']['final'] == pytest.approx(0.002 * 0.1)
    assert found['recipe']['stages'][0]['lrf'] == 0.1
    assert list(tmp_path.iterdir()) == []


def test_wrong_recipe_is_one_line_and_status_1(capsys):
    assert main(['plan', 'smoke', 'stage2.lr=1']) == 1
    assert 'stage2.lr: unknown key' in capsys.readouterr().err
