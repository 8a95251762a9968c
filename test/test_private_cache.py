"""Compiled code is loaded only from where nobody else can put it."""

from __future__ import annotations

import os
from dataclasses import astuple

import pytest
from tensorrt_machine import CAR
from test_engine_cpu import ALL_PASSED, EVERYTHING, best, bundle_with, speeds

from cone_perception.engines.cpu.open import open_fastest
from cone_perception.engines.kept import keep, read_kept
from cone_perception.engines.tensorrt.plans import Compiled, PlanKey, PlanPlace, passport_path
from cone_perception.errors import InstallError

KEY = PlanKey('0' * 64, 'fp16', 1, 'tensorrt', '10.9', *astuple(CAR))


@pytest.fixture(autouse=True)
def umask_of_a_careless_user():
    before = os.umask(0)
    yield
    os.umask(before)


def store_plan(folder):
    place = PlanPlace('tiny', KEY, folder)
    with place.lock():
        place.store(Compiled(bytes(100), {}, {}))
    return place


KEPT = {
    'code': (lambda folder: keep(folder / 'x.blob', b'code'), lambda f: read_kept(f / 'x.blob')),
    'plan': (store_plan, lambda folder: PlanPlace('tiny', KEY, folder).load()),
}


@pytest.fixture(params=KEPT)
def kept(request, tmp_path):
    """A folder with compiled code in it, and what loads it from there."""
    write, load = KEPT[request.param]
    write(tmp_path / 'cache')
    return tmp_path / 'cache', lambda: load(tmp_path / 'cache')


def files_of(folder):
    return [file for file in folder.iterdir() if file.suffix != '.lock']


def test_what_is_kept_can_be_written_by_its_owner_alone(kept):
    folder, load = kept
    for each in (folder, *files_of(folder)):
        assert not each.stat().st_mode & 0o022, each
    assert load()


@pytest.mark.parametrize('mode', [0o777, 0o757])
def test_code_that_others_may_write_is_not_loaded(kept, mode):
    folder, load = kept
    for each in (folder, *files_of(folder)):
        right = each.stat().st_mode
        each.chmod(mode)
        with pytest.raises(InstallError, match=f'others may write {each}: run `chmod go-w {each}`'):
            load()
        each.chmod(right)
    assert load()


def test_code_in_the_folder_of_another_user_is_not_loaded(kept, monkeypatch):
    folder, load = kept
    owner = folder.stat().st_uid
    if owner == 0:
        owner = 12345
        os.chown(folder, owner, owner)
    else:
        monkeypatch.setattr('os.getuid', lambda: owner + 1)
    with pytest.raises(InstallError, match=f'{folder} belongs to user {owner}, not to'):
        load()


def test_link_to_code_elsewhere_is_judged_by_what_it_leads_to(tmp_path):
    (tmp_path / 'open').mkdir(mode=0o777)
    keep(tmp_path / 'open' / 'x.blob', b'code')
    (tmp_path / 'x.blob').symlink_to(tmp_path / 'open' / 'x.blob')
    with pytest.raises(InstallError, match='others may write .*/open: '):
        read_kept(tmp_path / 'x.blob')


def test_code_under_the_name_of_another_network_is_not_loaded(tmp_path):
    """The name says which of the card's networks it was compiled from."""
    keep(tmp_path / 'a.blob', b'code')
    assert read_kept(tmp_path / 'a.blob') == b'code'
    (tmp_path / 'a.blob').rename(tmp_path / 'b.blob')
    assert read_kept(tmp_path / 'b.blob') == b''


def test_passport_that_others_may_write_is_not_read(tmp_path):
    place = store_plan(tmp_path / 'cache')
    passport_path(place.path).chmod(0o666)
    with pytest.raises(InstallError, match=r'others may write .*\.json'):
        place.load()


def test_choice_of_the_network_that_others_may_write_is_not_followed(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    speeds(monkeypatch, dict.fromkeys(ALL_PASSED, 10.0))
    open_fastest(best(bundle), tmp_path / 'cache', print).close()
    (choice,) = (tmp_path / 'cache').glob('*.json')
    choice.chmod(0o666)
    with pytest.raises(InstallError, match=r'others may write .*\.json'):
        open_fastest(best(bundle), tmp_path / 'cache', print)
