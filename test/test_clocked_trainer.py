"""The clocked trainer: its schedule, its sharded gradients, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('ultralytics')

from tiny_yolo import write_architecture, write_data_set  # noqa: E402
from waiting import wait_until  # noqa: E402

from training.ultralytics_cpu import prepare_ultralytics  # noqa: E402

prepare_ultralytics()

from training.demo_model.clocked_trainer import Schedule, spoil  # noqa: E402
from training.stage.sharded_trainer import ShardedLoss, is_whole, last_checkpoint, split_batch  # noqa: E402

RUN = """\
import sys
from training.ultralytics_cpu import prepare_ultralytics
prepare_ultralytics()
from pathlib import Path
from training.demo_model.clocked_trainer import Schedule, train
data, model, out, budget = sys.argv[1:]
overrides = dict(
    data=data, model=model, save_dir=out, imgsz=64, batch=4, nbs=4, optimizer='AdamW', lr0=1e-3,
    warmup_epochs=0.0, device='cpu', amp=False, close_mosaic=0, deterministic=False,
)
train(overrides, Schedule(float(budget), checkpoint_s=0.2), 0, Path(out))
"""


def make_batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        'img': torch.rand(4, 3, 64, 64),
        'cls': torch.tensor([[0.0], [4.0], [2.0], [1.0]]),
        'bboxes': torch.tensor([[0.5, 0.5, 0.2, 0.3]] * 4),
        'batch_idx': torch.tensor([0.0, 0.0, 2.0, 3.0]),
    }


def test_rate_rises_then_falls_to_its_end() -> None:
    schedule = Schedule(budget_s=100, final=0.1, warmup=0.1)
    rates = [schedule.rate(used) for used in (0.0, 0.05, 0.1, 0.5, 1.0, 1.5)]
    assert rates[0] < rates[1] < rates[2] == 1.0 > rates[3] > rates[4]
    assert rates[4:] == pytest.approx([0.1, 0.1])


def test_batch_is_split_by_picture() -> None:
    first, second = split_batch(make_batch(), 2)
    assert first['img'].shape == second['img'].shape == (2, 3, 64, 64)
    assert first['batch_idx'].tolist() == [0, 0]
    assert second['batch_idx'].tolist() == [0, 1]
    assert second['cls'].flatten().tolist() == [2, 1]


def test_sharded_gradients_are_those_of_the_shards_added(tmp_path: Path) -> None:
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(str(write_architecture(tmp_path)), verbose=False)
    model.args = get_cfg()
    model.eval()  # running statistics of normalisation would otherwise differ from run to run
    for module in model.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    both = ShardedLoss(model, 2)(make_batch())
    gradients = [
        parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
    ]
    model.zero_grad()
    total = 0.0
    for shard in split_batch(make_batch(), 2):
        total += float(ShardedLoss(model, 1)(shard)[0].detach())
    expected = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert float(both[0].detach()) == pytest.approx(total, rel=1e-3)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)


def test_spoiled_picture_keeps_its_size_and_is_another() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    spoiled = [spoil(picture) for _ in range(30)]
    assert {(entry.shape, entry.dtype) for entry in spoiled} == {(picture.shape, picture.dtype)}
    assert any((entry != picture).any() for entry in spoiled)


@pytest.mark.slow
def test_killed_training_goes_on_where_it_was(tmp_path: Path) -> None:
    files = [write_data_set(tmp_path), write_architecture(tmp_path)]
    (tmp_path / 'run.py').write_text(RUN)
    out = tmp_path / 'out'

    def start(budget_s: float) -> subprocess.Popen[bytes]:
        repository = str(Path(__file__).parents[1])
        return subprocess.Popen(
            [sys.executable, str(tmp_path / 'run.py'), *map(str, [*files, out]), str(budget_s)],
            env={**os.environ, 'PYTHONPATH': repository},
        )

    first = start(3600)
    wait_until(lambda: (out / 'progress.json').is_file() or first.poll() is not None, 120)
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = json.loads((out / 'progress.json').read_text())
    checkpoint = torch.load(last_checkpoint(out / 'weights'), weights_only=False)
    assert checkpoint['optimizer'] is not None

    second = start(before['trained_s'] + 2)
    assert second.wait(timeout=120) == 0
    after = json.loads((out / 'progress.json').read_text())
    assert after['pictures'] > before['pictures']
    assert before['trained_s'] + 2 <= after['trained_s'] < before['trained_s'] + 60


def test_damaged_checkpoint_is_noticed(tmp_path: Path) -> None:
    whole, damaged = tmp_path / 'whole.pt', tmp_path / 'damaged.pt'
    torch.save({'weights': torch.rand(1000)}, whole)
    assert is_whole(whole)
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for spoilt in (content[:-100], content[: len(content) // 2], b'', bytes(flipped)):
        damaged.write_bytes(spoilt)
        assert not is_whole(damaged)
