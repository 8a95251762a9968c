"""Weights & Biases beside a training: whatever it does, the training goes on and is told."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.recipe.recipe import Tracking
from training.runs.folder import CampaignFolder
from training.stage.tracking import TrackedRun

KEY = 'k' * 40
HANGS = 'import threading\nthreading.Event().wait()\n'
WORKS = """\
import sys
class Settings:
    def __init__(self, **values): pass
class Run:
    url = None
    def __init__(self, id): print('id', id, file=sys.stderr)
    def define_metric(self, *args, **values): pass
    def log(self, values): print('log', int(values['epoch']), file=sys.stderr)
    def finish(self, exit_code): pass
def init(**values): return Run(values['id'])
def teardown(): pass
"""
MISSING = "raise ModuleNotFoundError('No module named wandb', name='wandb')\n"


needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec('wandb') is None, reason='needs wandb: pip install wandb'
)


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch):
    """No test finds a key of whoever runs it, or reaches a real server."""
    for name in [name for name in os.environ if name.startswith('WANDB_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('WANDB_BASE_URL', 'http://127.0.0.1:9')
    monkeypatch.setenv('WANDB_CONFIG_DIR', str(tmp_path / 'config'))
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    monkeypatch.setenv('WANDB_INIT_TIMEOUT', '1')


def warnings(folder: Path) -> list[str]:
    """What was told to the campaign's events."""
    events = CampaignFolder(folder).read_events()
    assert {(event['kind'], event['name']) for event in events} <= {('warning', 'tracking')}
    return [event['message'] for event in events]


def record(tracked: TrackedRun) -> dict[str, Any]:
    return json.loads(tracked.record.read_text()) if tracked.record.is_file() else {'sent': 0}


def start(folder: Path, mode: str = 'offline', epochs: int = 1) -> TrackedRun:
    """A run whose stage has so many epochs in results.csv already."""
    write_epochs(folder, epochs)
    about = {
        'group': 'a-campaign',
        'job_type': 'stage1',
        'name': 'two-stage/seed0/stage1',
        'config': {'lr0': 0.01, 'data': Path('somewhere')},
    }
    return TrackedRun(Tracking(mode=mode), about, folder / 'stage', folder)  # type: ignore[arg-type]


def write_epochs(folder: Path, epochs: int) -> None:
    rows = [f'{epoch},{0.1 * epoch},nan\n' for epoch in range(1, epochs + 1)]
    (folder / 'stage').mkdir(parents=True, exist_ok=True)
    text = 'epoch,metrics/mAP50(B),train/box_loss\n' + ''.join(rows)
    (folder / 'stage' / 'results.csv').write_text(text)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stub_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / 'stub').mkdir()
    (folder / 'stub' / 'wandb.py').write_text(text)
    monkeypatch.setenv('PYTHONPATH', str(folder / 'stub'))


IMPORTS = """\
import json, os, signal, sys, time
from pathlib import Path
from training.recipe.recipe import Tracking
from training.stage.tracking import TrackedRun
"""


def run_python(script: str, *words: Path, status: int = 0, **environment: str) -> str:
    """Run a script in a process of its own, which ends with that status. Returns its output."""
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, '-c', IMPORTS + script, *words],
        cwd=repository,
        env={**os.environ, **environment, 'PYTHONPATH': str(repository)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == status
    return done.stdout


def test_off_starts_and_writes_nothing(tmp_path):
    about = {'group': 'c', 'job_type': 'j', 'name': 'r/j'}
    tracked = TrackedRun(Tracking(), about, tmp_path / 'stage', tmp_path)
    assert tracked.process is None
    tracked.finish()
    assert not list(tmp_path.iterdir())


def test_this_side_never_imports_wandb():
    run_python(
        'sys.modules["wandb"] = None\n'
        'TrackedRun(Tracking(), {"name": "r"}, Path("/nowhere"), Path("/nowhere")).finish()\n',
    )


def test_without_wandb_a_warning_says_how_to_get_it(tmp_path, monkeypatch, capfd):
    stub_wandb(tmp_path, monkeypatch, MISSING)
    tracked = start(tmp_path, 'online')
    wait_until(lambda: warnings(tmp_path))
    tracked.finish()
    told = warnings(tmp_path)[0]
    assert 'pip install wandb' in told
    assert f'warning: {told}' in capfd.readouterr().err
    assert not tracked.record.exists()


def test_wandb_that_hangs_costs_points_and_not_the_training(tmp_path, monkeypatch):
    stub_wandb(tmp_path, monkeypatch, HANGS)
    tracked = start(tmp_path, 'online', epochs=7)
    process = tracked.process
    assert process is not None
    tracked.finish(limit_s=0.5)
    stopped, lost = warnings(tmp_path)
    assert 'was stopped' in stopped
    assert '7 of 7 points' in lost
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_killed_process_is_told(tmp_path, monkeypatch):
    stub_wandb(tmp_path, monkeypatch, HANGS)
    tracked = start(tmp_path, 'offline', epochs=3)
    assert tracked.process is not None
    os.kill(tracked.process.pid, signal.SIGKILL)
    tracked.finish()
    assert warnings(tmp_path) == ['W&B: 3 of 3 points of this run were not sent.']


def test_what_fails_is_told_once_to_the_campaigns_events(tmp_path, monkeypatch):
    stub_wandb(tmp_path, monkeypatch, 'raise RuntimeError("the key kkkk is wrong")')
    monkeypatch.setenv('WANDB_API_KEY', 'kkkk')
    write_epochs(tmp_path, 0)
    TrackedRun(Tracking(mode='offline'), {'name': 'r/s/j'}, tmp_path / 'stage', tmp_path).finish()
    (event,) = CampaignFolder(tmp_path).read_events()
    assert event['message'] == "W&B fails: RuntimeError('the key *** is wrong')"
    assert (event['run'], event['step']) == ('r/s', 'j')


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / 'wandb').write_text('a file where the folder should be')
    start(tmp_path).finish()
    (told,) = warnings(tmp_path)
    assert 'nothing is tracked' in told


def test_results_that_cannot_be_read_are_a_warning(tmp_path, monkeypatch):
    stub_wandb(tmp_path, monkeypatch, WORKS)
    tracked = start(tmp_path)
    results = tmp_path / 'stage' / 'results.csv'
    results.write_text('epoch\n' + '"' + 'x' * 200_000)  # csv.Error: more than a field may have
    tracked.finish()
    assert 'nobody can tell' in warnings(tmp_path)[-1]
    start_again = TrackedRun(Tracking(mode='offline'), {'name': 'r'}, tmp_path / 'stage', tmp_path)
    assert start_again.process is None
    assert 'nothing is tracked' in warnings(tmp_path)[-1]


def run_files(folder: Path) -> list[Path]:
    return sorted(folder.glob('wandb/offline-run-*/run-*.wandb'))


OFFLINE = """\
folder, evaluation = map(Path, sys.argv[1:])
about = {'group': 'a-campaign', 'job_type': 'stage1', 'name': 'two-stage/seed0/stage1'}
for name, source in (('stage1', folder / 'stage'), ('test', evaluation)):
    run = TrackedRun(Tracking(mode='offline'), {**about, 'name': name}, source, folder)
    run.finish()
    record = json.loads(run.record.read_text())
    print(json.dumps([record['mode'], record['sent']]))
"""


@needs_wandb
@pytest.mark.slow
def test_offline_run_writes_everything_below_its_folder_and_reaches_no_host(tmp_path):
    from recorded_campaign import write_campaign

    evaluation = write_campaign(tmp_path / 'mini').evaluation('two-stage/seed0', 'test')
    folder = tmp_path / 'campaign'
    write_epochs(folder, 2)
    (folder / 'stage' / 'weights').mkdir()
    weights = folder / 'stage' / 'weights' / 'best.pt'
    weights.write_bytes(b'these are weights')
    with socket.create_server(('127.61.3.9', 0)) as listener:
        address = 'http://{}:{}'.format(*listener.getsockname())
        # Of a process of its own: what runs beside this test knows nothing of the address.
        proxies = ('HTTP_PROXY', 'HTTPS_PROXY', 'http_proxy', 'https_proxy', 'ALL_PROXY')
        environment = {
            **dict.fromkeys(proxies, address),
            'WANDB_BASE_URL': address,
            'WANDB_API_KEY': KEY,
            'HOME': str(tmp_path / 'home'),
        }
        said = run_python(OFFLINE, folder, evaluation, **environment)
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            pytest.fail(f'called: {listener.accept()[0].recv(1000)!r}')
    ends = [json.loads(line) for line in said.splitlines() if line.startswith('[')]
    assert ends == [['offline', 2], ['offline', 1]]
    assert not warnings(folder)
    text = b''.join(run.read_bytes() for run in run_files(folder))
    for part in (b'metrics/mAP50(B)', b'train/box_loss', b'a-campaign', b'stage1', b'test/map50'):
        assert part in text
    files = [p for p in folder.rglob('*') if p.is_file()]
    assert len([p for p in files if p.read_bytes() == weights.read_bytes()]) > 1
    tables = ''.join(p.read_text() for p in files if p.name.endswith('table.json'))
    assert 'blue_cone' in tables
    assert 'low_px' in tables
    assert {p.suffix for p in files if 'media' in p.parts} >= {'.html'}
    assert not (tmp_path / 'home').exists()


def test_evaluation_that_is_none_is_a_warning(tmp_path, monkeypatch):
    stub_wandb(tmp_path, monkeypatch, WORKS)
    (tmp_path / 'evaluation.json').write_text('{}')
    TrackedRun(Tracking(mode='offline'), {'name': 'r/test'}, tmp_path, tmp_path).finish()
    failed, lost = warnings(tmp_path)
    assert failed == "W&B fails: KeyError('figures')"
    assert '1 of 1 points' in lost


def test_epochs_are_sent_as_they_come_and_after_a_kill_those_that_are_trained_again(
    tmp_path, monkeypatch
):
    stub_wandb(tmp_path, monkeypatch, WORKS)
    tracked = start(tmp_path, epochs=0)
    for epochs in (2, 3):
        write_epochs(tmp_path, epochs)
        wait_until(lambda wanted=epochs: record(tracked)['sent'] == wanted)
    tracked.finish(failed=True)
    again = start(tmp_path, epochs=1)  # killed before the second one was saved
    write_epochs(tmp_path, 4)
    again.finish()
    assert (record(again)['sent'], warnings(tmp_path)) == (4, [])
    log = (tmp_path / 'wandb' / 'two-stage_seed0_stage1.log').read_text()
    told = re.findall(r'log (\d)', log)
    assert told == ['1', '2', '3', '2', '3', '4']
    assert len(set(re.findall(r'id (\w+)', log))) == 1


@needs_wandb
@pytest.mark.slow
@pytest.mark.parametrize('key', ['', KEY], ids=['no key', 'no network'])
def test_online_that_fails_goes_on_offline_and_says_so(key, tmp_path, monkeypatch):
    if key:
        monkeypatch.setenv('WANDB_API_KEY', key)
    tracked = start(tmp_path, 'online', epochs=3)
    tracked.finish()
    known = record(tracked)
    assert (known['mode'], known['sent'], known['url']) == ('offline', 3, None)
    assert len(run_files(tmp_path)) >= 1
    (warning,) = warnings(tmp_path)
    assert 'does not work online: ' in warning
    assert ('api' in warning.lower()) != bool(key)
    assert 'goes on offline' in warning
    assert 'wandb sync' in warning
    assert KEY not in warning


@needs_wandb
@pytest.mark.slow
def test_death_of_wandbs_service_is_told_and_survived(tmp_path):
    tracked = start(tmp_path)
    wait_until(lambda: record(tracked)['sent'])
    process = tracked.process
    assert process is not None
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    (service,) = map(int, children.read_text().split())
    os.kill(service, signal.SIGKILL)
    epochs = 1

    def told() -> bool:  # wandb hears of the death a moment later, and takes what comes before
        nonlocal epochs
        epochs += 1
        write_epochs(tmp_path, epochs)
        return any('W&B fails' in warning for warning in warnings(tmp_path))

    wait_until(told)
    tracked.finish()
    lost = epochs - record(tracked)['sent']
    assert lost > 0
    assert warnings(tmp_path)[-1] == f'W&B: {lost} of {epochs} points of this run were not sent.'


@needs_wandb
@pytest.mark.slow
def test_killed_training_leaves_no_process_behind(tmp_path):
    write_epochs(tmp_path, 1)
    script = (
        'folder = Path(sys.argv[1])\n'
        'run = TrackedRun(Tracking(mode="offline"), {"name": "r"}, folder / "stage", folder)\n'
        'while not run.record.is_file(): time.sleep(0.05)\n'
        'print(run.process.pid, flush=True)\n'
        'os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    said = run_python(script, tmp_path, status=-signal.SIGKILL)
    process = Path('/proc') / said.split()[-1]
    wait_until(lambda: not process.exists() or 'Z' in (process / 'stat').read_text().split()[2])
    assert run_files(tmp_path)
