"""Weights & Biases beside a training: whatever it does, the training goes on and is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training.recipe.recipe import Tracking
from training.stage.tracking import QUEUE_MESSAGES, TrackedRun, open_tracking, track_evaluation

KEY = 'k' * 40
HANGS = 'import threading\nthreading.Event().wait()\n'
MISSING = "raise ModuleNotFoundError('No module named wandb', name='wandb')\n"


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds a key of whoever runs it, or reaches a real server."""
    for name in [name for name in os.environ if name.startswith('WANDB_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('WANDB_BASE_URL', 'http://127.0.0.1:9')
    monkeypatch.setenv('WANDB_CONFIG_DIR', str(tmp_path / 'config'))
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    monkeypatch.setenv('WANDB_INIT_TIMEOUT', '1')


def start(folder: Path, mode: str = 'offline', warnings: list[str] | None = None) -> TrackedRun:
    return open_tracking(
        Tracking(mode=mode),  # type: ignore[arg-type]
        'a-campaign',
        'two-stage/seed0',
        'stage1',
        {'lr0': 0.01, 'data': Path('somewhere')},
        folder,
        warn=(warnings if warnings is not None else []).append,
    )


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stub_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / 'stub').mkdir()
    (folder / 'stub' / 'wandb.py').write_text(text)
    monkeypatch.setenv('PYTHONPATH', str(folder / 'stub'))


def test_off_starts_and_writes_nothing(tmp_path: Path) -> None:
    tracked = start(tmp_path, 'off')
    tracked.log({'loss': 1.0}, 0)
    end = tracked.finish()
    assert (end.mode, end.sent, end.lost, end.warnings) == ('off', 0, 0, ())
    assert tracked.process_id is None
    assert not list(tmp_path.iterdir())


def test_this_side_never_imports_wandb() -> None:
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            'import sys; sys.modules["wandb"] = None\n'
            'from pathlib import Path\n'
            'from training.recipe.recipe import Tracking\n'
            'from training.stage.tracking import open_tracking\n'
            'open_tracking(Tracking(), "c", "r", "j", {}, Path("/nowhere")).finish()\n',
        ],
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0


def test_without_wandb_a_warning_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_wandb(tmp_path, monkeypatch, MISSING)
    warnings: list[str] = []
    tracked = start(tmp_path, 'online', warnings)
    wait_until(lambda: warnings)
    tracked.log({'loss': 1.0}, 0)
    assert tracked.finish().mode == 'off'
    assert 'pip install wandb' in warnings[0]


def test_wandb_that_hangs_costs_messages_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_wandb(tmp_path, monkeypatch, HANGS)
    warnings: list[str] = []
    tracked = start(tmp_path, 'online', warnings)
    for step in range(QUEUE_MESSAGES * 20):  # more than the queue and the pipe hold
        tracked.log({f'metrics/mAP50(B) {n}': 0.5 for n in range(10)}, step)
    assert [w for w in warnings if 'does not keep up' in w] == warnings
    process_id = tracked.process_id
    end = tracked.finish(limit_s=0.5)
    assert end.sent == 0
    assert end.lost >= QUEUE_MESSAGES
    assert 'was stopped' in ' '.join(end.warnings)
    assert f'{end.lost} of {end.lost} messages' in end.warnings[-1]
    with pytest.raises(ProcessLookupError):
        os.kill(process_id or 0, 0)


def test_a_killed_process_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_wandb(tmp_path, monkeypatch, HANGS)
    warnings: list[str] = []
    tracked = start(tmp_path, 'offline', warnings)
    os.kill(tracked.process_id or 0, signal.SIGKILL)
    wait_until(lambda: tracked.log({'loss': 1.0}, 0) or warnings)
    for step in range(5):
        tracked.log({'loss': 1.0}, step)
    end = tracked.finish()
    assert len([w for w in end.warnings if 'has ended before the training' in w]) == 1
    assert end.lost > 5


def test_what_json_does_not_know_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_wandb(tmp_path, monkeypatch, HANGS)
    tracked = start(tmp_path)
    round_: dict[str, object] = {}
    round_['itself'] = round_
    tracked.log(round_, 0)  # type: ignore[arg-type]
    wait_until(lambda: tracked.warnings)
    assert 'cannot be told log' in tracked.finish(limit_s=0.1).warnings[0]


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / 'wandb').write_text('a file where the folder should be')
    warnings: list[str] = []
    assert start(tmp_path, 'offline', warnings).finish().mode == 'off'
    assert 'nothing is tracked' in warnings[0]


def run_files(folder: Path) -> list[Path]:
    return sorted(folder.glob('wandb/offline-run-*/run-*.wandb'))


@pytest.mark.slow
def test_offline_run_writes_everything_below_its_folder_and_reaches_no_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('wandb')
    cv2 = pytest.importorskip('cv2')
    numpy = pytest.importorskip('numpy')
    # An address of its own: at 127.0.0.1 somebody else once called, perhaps of an old port.
    host = '127.61.3.9'
    listener = socket.create_server((host, 0))
    address = f'http://{host}:{listener.getsockname()[1]}'
    monkeypatch.setenv('WANDB_BASE_URL', address)
    for name in ('HTTP_PROXY', 'HTTPS_PROXY', 'http_proxy', 'https_proxy', 'ALL_PROXY'):
        monkeypatch.setenv(name, address)
    monkeypatch.setenv('WANDB_API_KEY', KEY)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    weights = tmp_path / 'best.pt'
    weights.write_bytes(b'these are weights')
    picture = tmp_path / 'sheet.png'
    cv2.imwrite(str(picture), numpy.zeros((8, 8, 3), numpy.uint8))

    tracked = start(tmp_path / 'campaign')
    tracked.log({'metrics/mAP50(B)': numpy.float32(0.25), 'train/box_loss': float('nan')}, 0)
    tracked.log_images('worst pictures', [picture])
    tracked.log_table('test', ['class', 'AP50'], [['blue_cone', 0.5], ['unknown_cone', None]])
    tracked.log_artifact('stage 1 best', weights)
    end = tracked.finish()

    assert (end.mode, end.sent, end.lost, end.warnings) == ('offline', 4, 0, ())
    (run,) = run_files(tmp_path / 'campaign')
    text = run.read_bytes()
    for part in (b'metrics/mAP50(B)', b'train/box_loss', b'a-campaign', b'stage1', b'worst'):
        assert part in text
    files = [p for p in (tmp_path / 'campaign').rglob('*') if p.is_file()]
    assert any(p.read_bytes() == weights.read_bytes() for p in files)
    assert any('blue_cone' in p.read_text() for p in files if p.name.endswith('table.json'))
    assert any(p.read_bytes() == picture.read_bytes() for p in files if p.suffix == '.png')
    assert not (tmp_path / 'home').exists()
    listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.close()


@pytest.mark.slow
def test_evaluation_is_logged_with_tables_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip('wandb')
    from recorded_campaign import write_campaign

    folder = write_campaign(tmp_path / 'mini')
    place = folder.evaluation('two-stage/seed0', 'test')
    end = track_evaluation(
        Tracking(mode='offline'), 'mini', 'two-stage/seed0', 'test', place, folder.root
    )
    assert (end.mode, end.sent, end.lost, end.warnings) == ('offline', 5, 0, ())
    (media,) = folder.root.glob('wandb/offline-run-*/files/media')
    tables = ''.join(path.read_text() for path in media.rglob('*.table.json'))
    assert 'blue_cone' in tables
    assert 'low_px' in tables
    assert {path.suffix for path in media.rglob('*') if path.is_file()} >= {'.png', '.jpg'}


def test_evaluation_that_is_none_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_wandb(tmp_path, monkeypatch, MISSING)
    warnings: list[str] = []
    track_evaluation(
        Tracking(mode='offline'), 'c', 'r', 'test', tmp_path / 'none', tmp_path, warnings.append
    )
    assert any('no evaluation' in warning for warning in warnings)


@pytest.mark.slow
def test_resumed_stage_goes_on_in_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip('wandb')
    for step in (3, 2):  # the epoch in which it was killed comes again
        tracked = start(tmp_path)
        tracked.log({'loss': 1.0}, step)
        assert tracked.finish().sent == 1
    first, second = run_files(tmp_path)
    assert first.name == second.name
    (record,) = tmp_path.glob('wandb/*.json')
    assert first.stem == f'run-{json.loads(record.read_text())["id"]}'


@pytest.mark.slow
@pytest.mark.parametrize('key', ['', KEY], ids=['no key', 'no network'])
def test_online_that_fails_goes_on_offline_and_says_so(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('wandb')
    if key:
        monkeypatch.setenv('WANDB_API_KEY', key)
    warnings: list[str] = []
    tracked = start(tmp_path, 'online', warnings)
    for step in range(3):
        tracked.log({'loss': 1.0}, step)
    end = tracked.finish()
    assert (end.mode, end.sent, end.lost, end.url) == ('offline', 3, 0, None)
    assert len(run_files(tmp_path)) >= 1
    (warning,) = warnings
    assert 'does not work online: ' in warning
    assert ('api' in warning.lower()) != bool(key)
    assert 'goes on offline' in warning
    assert 'wandb sync' in warning
    assert KEY not in warning


@pytest.mark.slow
def test_death_of_wandbs_service_is_told_and_survived(tmp_path: Path) -> None:
    pytest.importorskip('wandb')
    warnings: list[str] = []
    tracked = start(tmp_path, 'offline', warnings)
    tracked.log({'loss': 1.0}, 0)
    wait_until(lambda: tracked._taken)
    children = Path(f'/proc/{tracked.process_id}/task/{tracked.process_id}/children')
    (service,) = map(int, children.read_text().split())
    os.kill(service, signal.SIGKILL)
    steps = 1

    def told() -> bool:  # wandb hears of the death a moment later, and takes what comes before
        nonlocal steps
        tracked.log({'loss': 1.0}, steps)
        steps += 1
        return any('W&B fails' in warning for warning in warnings)

    wait_until(told)
    end = tracked.finish()
    assert end.sent + end.lost == steps
    assert end.lost > 0
    assert warnings[-1] == f'W&B: {end.lost} of {steps} messages of this run were lost.'


@pytest.mark.slow
def test_killed_training_leaves_no_process_behind(tmp_path: Path) -> None:
    pytest.importorskip('wandb')
    script = tmp_path / 'training.py'
    script.write_text(
        'import os, signal, sys, time\n'
        'sys.path[0] = sys.argv[1]\n'
        'from pathlib import Path\n'
        'from training.recipe.recipe import Tracking\n'
        'from training.stage.tracking import open_tracking\n'
        'run = open_tracking(Tracking(mode="offline"), "c", "r", "j", {}, Path(sys.argv[2]))\n'
        'run.log({"loss": 1.0}, 0)\n'
        'while not run._taken: time.sleep(0.05)\n'
        'print(run.process_id, flush=True)\n'
        'os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script, repository, tmp_path], capture_output=True, text=True, timeout=120
    )
    process = Path('/proc') / done.stdout.strip()
    wait_until(lambda: not process.exists() or 'Z' in (process / 'stat').read_text().split()[2])
    assert run_files(tmp_path)
