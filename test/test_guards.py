"""Tests what must hold while a stage trains: rates, batches, data, and how a training may end."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cone_perception.classes import CLASS_NAMES
from cone_perception.errors import DataError
from training.recipe.recipe import Guards, Stage
from training.stage.guards import (
    GuardError,
    StageStopped,
    arguments,
    check_arguments,
    check_data,
    check_rates,
    expected_accumulation,
    expected_rate,
    forgotten,
    named_endings,
    rate_share,
)

FINE_TUNING = Stage('stage2', 'fsoco12', epochs=150, lr0=0.001, lrf=0.001)
BATCHES = 111


def test_the_final_rate_is_a_share_of_the_first():
    assert FINE_TUNING.lr0 * rate_share(FINE_TUNING, 150) == pytest.approx(1e-6)
    assert rate_share(FINE_TUNING, 75) == pytest.approx(0.5005)


def test_cosine_falls_slowly_at_both_ends():
    stage = replace(FINE_TUNING, cos_lr=True)
    shares = [rate_share(stage, epoch) for epoch in (0, 15, 75, 135, 150)]
    assert shares == pytest.approx([1.0, 0.9756, 0.5005, 0.0254, 0.001], abs=1e-3)


def test_rates_rise_from_nothing_those_of_biases_too():
    first = [expected_rate(FINE_TUNING, 0.001, bias, 0, BATCHES) for bias in (False, True)]
    assert first == [0.0, 0.0]
    after = expected_rate(FINE_TUNING, 0.001, False, 3 * BATCHES, BATCHES)
    assert after == pytest.approx(0.001 * rate_share(FINE_TUNING, 3))


def groups(rate: float) -> list[dict[str, Any]]:
    return [{'param_group': name, 'lr': rate} for name in ('weight', 'bn', 'bias')]


def test_rate_that_ultralytics_chose_by_itself_is_refused():
    batch = 10 * BATCHES
    check_rates(FINE_TUNING, groups(0.001 * rate_share(FINE_TUNING, 10)), batch, BATCHES)
    for chosen in (0.00111, 0.01):  # `auto` takes AdamW or MuSGD, and forgets what was learnt
        with pytest.raises(GuardError, match=r'group 0 \(weight\) learns at'):
            check_rates(FINE_TUNING, groups(chosen), batch, BATCHES)


def test_bias_that_starts_a_hundred_times_too_high_is_refused():
    start = groups(0.0)
    check_rates(FINE_TUNING, start, 0, BATCHES)
    start[2]['lr'] = 0.1  # Ultralytics' own warmup_bias_lr
    with pytest.raises(GuardError, match=r'group 2 \(bias\) learns at 0.1'):
        check_rates(FINE_TUNING, start, 0, BATCHES)


def test_class_head_of_musgd_learns_at_three_times_the_rate():
    stage = replace(FINE_TUNING, optimizer='MuSGD', warmup_epochs=0.0)
    check_rates(stage, [*groups(0.001), *groups(0.003)], 0, BATCHES)
    with pytest.raises(GuardError):
        check_rates(stage, groups(0.002), 0, BATCHES)


@pytest.mark.parametrize(('batch', 'nbs', 'batches'), [(16, 64, 4), (64, 64, 1), (128, 64, 1)])
def test_batches_to_an_optimizer_step(batch, nbs, batches):
    stage = replace(FINE_TUNING, batch=batch, nbs=nbs)
    assert expected_accumulation(stage, BATCHES) == batches


def test_arguments_that_differ_are_named():
    wanted = arguments(FINE_TUNING)
    assert {'lr0', 'lrf', 'warmup_bias_lr', 'nbs', 'patience', 'freeze', 'hsv_v'} < set(wanted)
    assert 'crops_per_picture' not in wanted
    check_arguments({**wanted, 'box': 7.5}, wanted)
    with pytest.raises(GuardError, match=r'lr0 is 0.01 instead of 0.001; nbs is None'):
        check_arguments({**wanted, 'lr0': 0.01, 'nbs': None}, wanted)


@pytest.mark.parametrize(
    ('map50', 'stops'),
    [
        ([0.60, 0.60], False),
        ([0.60, 0.60, 0.60], True),
        ([0.70, 0.60, 0.60, 0.60], True),
        ([0.60, 0.66, 0.60, 0.60], False),
        ([0.65, 0.65, 0.65], False),
    ],
)
def test_forgetting_is_a_drop_that_lasts(map50, stops):
    guards = Guards(forgetting_drop=0.05, forgetting_epochs=3)
    assert forgotten(map50, 0.70, guards) is stops
    assert not forgotten(map50, None, guards)


def write_set(folder: Path, **layout: Any) -> Path:
    for split in ('train', 'val', 'test'):
        (folder / split / 'images').mkdir(parents=True)
        (folder / split / 'images' / f'{split}.png').write_bytes(b'')
    content = {split: f'{split}/images' for split in ('train', 'val', 'test')}
    content['names'] = list(CLASS_NAMES)
    path = folder / 'data.yaml'
    path.write_text(yaml.safe_dump({**content, **layout}))
    return path


def test_val_of_the_target_is_recognised(tmp_path):
    target, other = write_set(tmp_path / 'target'), write_set(tmp_path / 'other')
    assert check_data(target, target)
    assert not check_data(other, target)


def test_test_pictures_are_not_trained_on(tmp_path):
    target = write_set(tmp_path / 'target')
    listed = tmp_path / 'target' / 'some.txt'
    listed.write_text(f'{tmp_path}/target/test/images/test.png\n')
    with pytest.raises(DataError, match='`train` are test pictures'):
        check_data(write_set(tmp_path / 'other', train=str(listed)), target)


@pytest.mark.parametrize(
    ('layout', 'told'),
    [
        ({'val': 'test/images'}, '`val` are test pictures'),
        ({'names': list(reversed(CLASS_NAMES))}, 'wrong numbers'),
        ({'download': 'import os'}, 'download'),
    ],
    ids=['selects on test pictures', 'classes in another order', 'would run code'],
)
def test_data_that_makes_the_verdict_worthless_is_refused(layout, told, tmp_path):
    target = write_set(tmp_path / 'target')
    with pytest.raises(DataError, match=told):
        check_data(write_set(tmp_path / 'other', **layout), target)


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (OSError(errno.ENOSPC, 'No space left on device'), 'disk_full'),
        (OSError(errno.EDQUOT, 'Disk quota exceeded'), 'disk_full'),
        (RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'), 'out_of_memory'),
        (MemoryError(), 'out_of_memory'),
    ],
)
def test_what_the_machine_lacks_ends_a_stage_by_name(error, reason):
    with pytest.raises(StageStopped) as stopped, named_endings(FINE_TUNING):
        raise error
    assert stopped.value.reason == reason


@pytest.mark.parametrize('error', [OSError(errno.EACCES, 'denied'), RuntimeError('a mistake')])
def test_other_errors_keep_their_kind(error):
    with pytest.raises(type(error)) as raised, named_endings(FINE_TUNING):
        raise error
    assert raised.value is error
