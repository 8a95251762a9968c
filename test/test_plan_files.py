"""Compiled engines on disk: what does not fit is named, and nothing half-written is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from tensorrt_machine import CAR

from cone_perception.engines.tensorrt.plans import (
    Compiled,
    PlanKey,
    PlanPlace,
    load_plan,
    passport_path,
    read_passport,
    read_plan,
    record_check,
)
from cone_perception.errors import PlanError

KEY = PlanKey('a' * 64, 'int8', 2, 'tensorrt', '10.3.0', *astuple(CAR))
PLAN = b'ftrt' + bytes(range(256)) * 8
CHANGES = {
    'network_sha256': 'b' * 64,
    'precision': 'fp16',
    'batch': 1,
    'provider': 'tensorrt_rtx',
    'provider_version': '11.0.0',
    'gpu': 'NVIDIA GeForce RTX 3060',
    'compute_capability': '8.6',
    'driver': '560.35.03',
    'cuda': '13.0',
}


def store(place: PlanPlace, data: bytes = PLAN) -> Path:
    counts = {'fp16': 31, 'int8': 89}
    place.store(Compiled(data, counts, {'CaskConvolution': {'int8': 89}}, 61.5))
    return place.path


@pytest.fixture
def place(tmp_path):
    return PlanPlace('my model', KEY, tmp_path / 'engines')


def for_another(place: PlanPlace, **entries: object) -> PlanPlace:
    """The place of a plan whose key differs in these entries."""
    return replace(place, key=replace(place.key, **entries))


def test_stored_plan_comes_back_with_its_passport(place):
    path = store(place)
    plan = place.load()
    assert (plan.path, plan.data) == (path, PLAN)
    assert plan.passport == read_passport(passport_path(path))
    assert plan.passport.key == KEY
    assert plan.passport.convolutions == {'fp16': 31, 'int8': 89}
    assert plan.passport.check is None


@pytest.mark.parametrize('entry', CHANGES)
def test_plan_of_another_machine_version_or_network_is_named(place, entry):
    path = store(place)
    wanted = for_another(place, **{entry: CHANGES[entry]})
    with pytest.raises(PlanError, match=rf'does not fit: {entry} is .*, the plan'):
        load_plan(path, wanted.key)
    with pytest.raises(PlanError, match='there is no engine of my model'):
        wanted.load()


def test_what_changed_since_the_last_build_is_named(place):
    store(place)
    with pytest.raises(PlanError, match=r"driver is 560\.35\.03, the plan's is 550\.54\.14"):
        for_another(place, driver='560.35.03').load()


def test_plan_for_any_gpu_of_a_kind_is_taken_on_such_a_gpu_only(place):
    rtx = for_another(place, provider='tensorrt_rtx')
    path = store(for_another(rtx, gpu='', driver='', cuda=''))
    assert rtx.load().path == path
    with pytest.raises(PlanError, match=r'compute_capability is 8\.6'):
        for_another(rtx, compute_capability='8.6').load()


@pytest.mark.parametrize('length', [0, 10, 63, 64, len(PLAN) - 1])
def test_plan_that_was_cut_off_is_named(place, length):
    path = store(place)
    path.write_bytes(PLAN[:length])
    with pytest.raises(PlanError, match='was cut off'):
        place.load()


@pytest.mark.parametrize('content', [PLAN[:-1] + b'x', PLAN[::-1]])
def test_plan_with_other_bytes_is_named(place, content):
    """The other way round: what is left when a rebuild dies between its two files."""
    path = store(place)
    path.write_bytes(content)
    with pytest.raises(PlanError, match='is damaged'):
        place.load()


def test_plan_without_passport_and_passport_without_plan_are_named(place):
    path = store(place)
    text = passport_path(path).read_text()
    passport_path(path).unlink()
    with pytest.raises(PlanError, match=r'json is missing, so nobody knows'):
        place.load()
    passport_path(path).write_text(text)
    path.unlink()
    with pytest.raises(PlanError, match=r'plan cannot be read: \[Errno 2\] No such file'):
        place.load()


@pytest.mark.parametrize(
    'text', ['', '{', '[]', 'null', '{"schema": 1}', '{"schema": 99, "model": "x"}', '\x00\xff']
)
def test_unreadable_passport_is_named(place, text):
    path = store(place)
    passport_path(path).write_bytes(text.encode('latin-1'))
    with pytest.raises(PlanError, match='not readable as a passport'):
        place.load()


def test_leftover_of_a_killed_build_is_not_taken_for_a_plan(place):
    path = place.path
    path.parent.mkdir(parents=True)
    path.with_name(f'.{path.name}.123').write_bytes(PLAN)
    with pytest.raises(PlanError, match='there is no engine'):
        place.load()
    store(place)
    assert place.load().data == PLAN


def test_folder_that_cannot_be_written_is_named(tmp_path):
    taken = tmp_path / 'taken'
    taken.write_bytes(b'')
    place = PlanPlace('my model', KEY, taken / 'engines')
    with pytest.raises(PlanError, match='plan cannot be written: .* XDG_CACHE_HOME'):
        store(place)
    with (
        pytest.raises(PlanError, match='lock cannot be written: .* XDG_CACHE_HOME'),
        place.lock(),
    ):
        pass
    assert list(tmp_path.iterdir()) == [taken]


def test_check_is_recorded_in_the_passport(place):
    path = store(place)
    record_check(path, {'passed': True, 'mean_iou': 0.98})
    plan = place.load()
    assert plan.passport.check == {'passed': True, 'mean_iou': 0.98}


def ultralytics(metadata: object, plan: bytes = PLAN) -> bytes:
    text = json.dumps(metadata).encode()
    return len(text).to_bytes(4, 'little', signed=True) + text + plan


def test_header_of_ultralytics_is_skipped_and_read(tmp_path):
    path = tmp_path / 'best.engine'
    path.write_bytes(ultralytics({'names': {'0': 'blue_cone'}, 'imgsz': [384, 640], 'batch': 1}))
    plan = read_plan(path)
    assert plan.data == PLAN
    assert plan.metadata['names'] == {'0': 'blue_cone'}
    path.write_bytes(PLAN)
    assert read_plan(path) == replace(plan, metadata={})


@pytest.mark.parametrize('length', [0, 3, 4, 5, 20, 60])
def test_engine_of_ultralytics_that_was_cut_off_is_named(tmp_path, length):
    path = tmp_path / 'best.engine'
    path.write_bytes(ultralytics({'names': {'0': 'blue_cone'}, 'task': 'detect'})[:length])
    with pytest.raises(PlanError, match='was cut off'):
        read_plan(path)


@pytest.mark.parametrize(
    'content', [b'\x08\x09\x12\x07pytorch' * 20, b'PK\x03\x04' * 50, b'{"a": 1}' * 20, bytes(200)]
)
def test_file_that_is_no_plan_is_named(tmp_path, content):
    path = tmp_path / 'best.engine'
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r'is no TensorRT plan: it begins with'):
        read_plan(path)


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PlanError, match=r'cannot be read: \[Errno 2\] No such file'):
        read_plan(tmp_path / 'best.engine')


HOLD_LOCK = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[3]]
from cone_perception.engines.tensorrt.plans import PlanPlace
from test_plan_files import KEY
with PlanPlace(sys.argv[2], KEY, Path(sys.argv[1])).lock():
    print('locked', flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize('ending', ['orderly', 'killed'])
def test_second_process_waits_for_the_first_however_it_ends(place, ending):
    here = Path(__file__).parent
    holder = subprocess.Popen(
        [sys.executable, '-c', HOLD_LOCK, place.folder, 'my model', here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=here.parent,
    )
    assert holder.stdout.readline() == b'locked\n'
    entered = threading.Event()
    waited: list[bool] = []

    def take() -> None:
        with place.lock() as had_to_wait:
            waited.append(had_to_wait)
            entered.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not entered.wait(0.5)
    if ending == 'killed':
        holder.kill()
    holder.stdin.close()
    assert entered.wait(30)
    thread.join()
    holder.wait()
    holder.stdout.close()
    assert waited == [True]
    with place.lock() as had_to_wait:
        assert not had_to_wait


def test_locks_of_two_plans_are_independent(place):
    with place.lock(), for_another(place, batch=1).lock() as waited:
        assert not waited


def test_cache_lies_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert PlanPlace('my model', KEY).folder == tmp_path / 'cone_perception' / 'engines'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    expected = tmp_path / 'home' / '.cache' / 'cone_perception' / 'engines'
    assert PlanPlace('my model', KEY).folder == expected
    assert os.environ['HOME'] == str(tmp_path / 'home')
