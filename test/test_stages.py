"""A stage: what it trains with, what stops it, and going on after whatever ended it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('ultralytics')

from tiny_yolo import write_architecture, write_data_set  # noqa: E402

from cone_perception.errors import DataError, ModelError  # noqa: E402
from training import stages  # noqa: E402
from training.guards import GuardError, StageStopped  # noqa: E402
from training.recipe import Guards, Stage  # noqa: E402
from training.stage_job import StageRecord  # noqa: E402
from training.stages import StageJob, StageTrainer, train_stage  # noqa: E402

TINY_STAGE = Stage(
    'stage1', 'tiny', epochs=3, batch=4, imgsz=64, nbs=4, optimizer='AdamW', lr0=2e-3,
    warmup_epochs=1.0, close_mosaic=0, mosaic=0.0,
)  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    data = write_data_set(tmp_path / 'data')
    return StageJob(
        'two-stage/seed0',
        TINY_STAGE,
        write_architecture(tmp_path),
        data,
        data,
        tmp_path / 'campaign' / TINY_STAGE.folder,
        tmp_path / 'campaign' / 'events.jsonl',
        'campaign',
        imgsz_val=64,
    )


def with_stage(job: StageJob, **changes: Any) -> StageJob:
    return replace(job, stage=replace(job.stage, **changes))


def events(job: StageJob, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in job.events.read_text().splitlines()]
    return [line for line in lines if line['name'] == name]


RUN = """\
import os, signal, sys
from pathlib import Path
from training.stage_job import StageRecord  # noqa: E402
from training.stages import StageJob, StageTrainer, train_stage

job, kill_at = StageJob.read(Path(sys.argv[1])), int(sys.argv[2])
check = StageTrainer._on_train_batch_end

def kill(trainer):
    check(trainer)
    if trainer._batch == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

StageTrainer._on_train_batch_end = kill
train_stage(job)
"""


def run_until_killed(job: StageJob, batch: int) -> None:
    job.write()
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, '-c', RUN, str(job.file), str(batch)],
        env={**os.environ, 'PYTHONPATH': str(repository)},
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_in_mid_epoch_it_goes_on_from_its_last_epoch(job: StageJob) -> None:
    run_until_killed(job, batch=3)  # two batches an epoch: in the second epoch
    saved = torch.load(job.weights / 'last.pt', weights_only=False)
    assert (saved['epoch'], saved['updates']) == (0, 2)
    seen = {}
    restore = StageTrainer._on_train_start

    def look(trainer: Any) -> None:
        restore(trainer)
        seen.update(epoch=trainer.start_epoch, updates=trainer.ema.updates, resume=trainer.resume)
        seen.update(steps=[float(s['step']) for s in trainer.optimizer.state.values()])
        seen.update(o2m=[criterion.updates for criterion in trainer.model.loss.criteria])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTrainer, '_on_train_start', look)
        result = train_stage(job)
    assert (seen['epoch'], seen['updates'], seen['resume']) == (1, 2, True)
    assert set(seen['steps']) == {2.0}
    assert set(seen['o2m']) == {1}
    rows = StageRecord(job).rows()
    assert [row['epoch'] for row in rows] == ['1', '2', '3']
    assert (result.epochs, result.stopped_by) == (3, None)
