"""A campaign with real trainings, killed in every stage and between, goes on to its report."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rendered_sets import smoke_words

pytest.importorskip('torch')
pytest.importorskip('ultralytics')

from training.judging.verdict import Outcome
from training.runs.folder import CampaignFolder

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ('stage1', 'stage2', 'baseline.single')
ENVIRONMENT = {
    'PYTHONPATH': str(REPOSITORY),
    'CUDA_VISIBLE_DEVICES': '',
    # Nobody listens there.
    'WANDB_BASE_URL': 'http://127.0.0.1:9',
    'WANDB_API_KEY': '0' * 40,
    'WANDB_INIT_TIMEOUT': '5',
}
LIMIT_S = 240
"""For one sitting, on a machine that is busy with other things too."""

Moment = Callable[[CampaignFolder], bool]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command as a batch system runs it: no terminal, nothing on stdin."""
    with log.open('ab') as out:
        return subprocess.Popen(
            [sys.executable, '-m', 'training.cli', 'two-stage', *words],
            cwd=log.parent,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


def kill_at(moment: Moment, folder: CampaignFolder, words: list[str], log: Path) -> None:
    """Start or resume, and SIGKILL at that moment."""
    process = start(words, log)
    deadline = time.monotonic() + LIMIT_S
    while not (folder.state.is_file() and moment(folder)):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    process.kill()
    process.wait()


def runs_step(name: str) -> Moment:
    def moment(folder: CampaignFolder) -> bool:
        step = folder.read_state().steps.get(name)
        return step is not None and step.status == 'running'

    return moment


def has_trained(name: str, count: int = 1) -> Moment:
    """So many epochs of that stage are written, and it is not over."""
    return lambda folder: runs_step(name)(folder) and len(epochs(folder, name)) >= count


def stage_folder(folder: CampaignFolder, name: str) -> Path:
    return folder.root / folder.read_state().steps[name].result['folder']


def epochs(folder: CampaignFolder, name: str) -> list[int]:
    place = stage_folder(folder, name) / 'results.csv'
    if not place.is_file():
        return []
    with place.open() as file:
        # A line that is being written has no time yet.
        rows = csv.DictReader(file, skipinitialspace=True)
        return [int(float(row['epoch'])) for row in rows if row.get('time')]


def test_campaign_survives_kills_everywhere(rendered_sets, tmp_path):
    folder, log = CampaignFolder(tmp_path / 'runs' / 'smoke'), tmp_path / 'log'
    # Long enough for a busy machine to be killed in time.
    words = smoke_words(rendered_sets) + [f'{stage}.epochs=6' for stage in STAGES]
    stages = ['two-stage/seed0/stage1', 'two-stage/seed0/stage2', 'single-stage/seed0/single']
    moments = [
        runs_step('verify'),
        has_trained(stages[0]),
        runs_step(f'{stages[0]}/evaluate'),
        has_trained(stages[1]),
        has_trained(stages[2], 3),
    ]
    for index, moment in enumerate(moments):
        kill_at(moment, folder, [*words, '--resume'] if index else words, log)
        assert folder.read_state().outcome is None
        assert not folder.is_locked()
    # As a power cut can leave it; the one before is whole.
    last = stage_folder(folder, stages[2]) / 'weights' / 'last.pt'
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])

    code = start([*words, 'tracking.mode=online', '--resume'], log).wait(LIMIT_S)
    text = log.read_text()
    assert code in list(Outcome), text
    state = folder.read_state()
    assert {step.status for step in state.steps.values()} == {'done'}
    assert [epochs(folder, name) for name in stages] == [[1, 2, 3, 4, 5, 6]] * 3
    for name in stages:
        result = state.steps[name].result
        assert (folder.root / result['best']).is_file()
    # The starting weights of stage 2 are those that stage 1 ended with, whatever came in between.
    job = json.loads((folder.root / 'jobs' / 'two-stage' / 'seed0' / 'stage2.json').read_text())
    assert job['model'] == str(folder.root / state.steps[stages[0]].result['best'])

    verdict = json.loads(folder.verdict.read_text())
    assert verdict['outcome'] == state.outcome == Outcome(code).label
    page = folder.report_html.read_text()
    assert verdict['sentence'].split('.')[0] in page
    assert 'src="http' not in page  # nothing is loaded from elsewhere
    assert folder.report_md.stat().st_size > 1000
    assert folder.card.is_file()
    names = [event['name'] for event in folder.read_events()]
    assert {'checkpoint_damaged', 'tracking'} <= set(names)
    # No network was asked for: nothing failed to be reached, nothing was downloaded.
    assert 'ownload' not in text
