"""The manifest: what it holds, and that every difference from it is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from planted_data import picture_path, plant, write_label

from cone_perception.errors import DataError
from training.cli import main
from training.data import manifest as manifests
from training.data.manifest import MANIFEST, check_manifest, read_manifest, write_manifest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return plant(tmp_path / 'cones')


def test_manifest_lists_every_file(data):
    (data / 'README.txt').write_text('about')
    (data / 'train' / 'labels.cache').write_bytes(b'of Ultralytics')
    manifest = write_manifest(data)
    assert read_manifest(data) == manifest
    assert len(manifest.files) == 2 * 11 + 2
    files = {file.path: file for file in manifest.files}
    label = files['train/labels/train_4.txt']
    assert (label.split, label.size) == ('train', 37)
    assert dict(label.boxes) == {'yellow_cone': 2}
    picture = files['valid/images/val_2.jpg']
    content = picture_path(data, 'val', 2).read_bytes()
    assert picture.sha256 == hashlib.sha256(content).hexdigest()
    assert (picture.split, dict(picture.boxes)) == ('val', {})
    assert files['README.txt'].split == ''
    head = json.loads((data / MANIFEST).read_text().splitlines()[0])
    assert head['sha256'] == manifest.sha256
    assert head['counts']['test'] == {
        'pictures': 2, 'labels': 2, 'blue_cone': 1, 'large_orange_cone': 1, 'yellow_cone': 2,
    }  # fmt: skip


def test_differences_are_named(data):
    write_manifest(data)
    assert not check_manifest(data)
    assert not check_manifest(data, full=True)
    picture_path(data, 'train', 1).unlink()
    write_label(data, 'val', 0, '0 0.5 0.5 0.1 0.1\n')
    write_label(data, 'val', 9, '')
    assert check_manifest(data) == {
        'train/images/train_1.jpg': 'missing',
        'valid/labels/val_9.txt': 'extra',
        'valid/labels/val_0.txt': 'changed',
    }


def test_quick_check_finds_a_change_of_the_same_size(data):
    write_manifest(data)
    path = data / 'test' / 'labels' / 'test_0.txt'
    path.write_text(path.read_text().replace('0.25', '0.35'))
    os.utime(path, ns=(1, 1))
    assert check_manifest(data) == {'test/labels/test_0.txt': 'changed'}


def test_full_check_finds_what_hides_its_time(data):
    write_manifest(data)
    path = picture_path(data, 'test', 0)
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not check_manifest(data)
    assert check_manifest(data, full=True) == {'test/images/test_0.jpg': 'changed'}


def test_copy_has_the_same_hash_and_passes(data, tmp_path):
    manifest = write_manifest(data)
    copy = tmp_path / 'elsewhere' / 'copied'
    shutil.copytree(data, copy, copy_function=shutil.copyfile)
    assert not check_manifest(copy)
    assert write_manifest(copy).sha256 == manifest.sha256


def test_quick_check_reads_no_unchanged_file(data, monkeypatch):
    write_manifest(data)
    monkeypatch.setattr(manifests, 'file_sha256', lambda file: pytest.fail(f'{file} was read'))
    assert not check_manifest(data)


def test_pictures_outside_of_the_folder_are_listed(data, tmp_path):
    other = plant(tmp_path / 'other')
    text = (data / 'data.yaml').read_text()
    (data / 'data.yaml').write_text(text.replace('../test/images', f'{other}/test/images'))
    write_manifest(data)
    write_label(other, 'test', 0, '')
    assert check_manifest(data) == {'../other/test/labels/test_0.txt': 'changed'}


def test_edited_manifest_is_refused(data):
    write_manifest(data)
    lines = (data / MANIFEST).read_text().splitlines()
    (data / MANIFEST).write_text('\n'.join(lines[:-1]) + '\n')
    with pytest.raises(DataError, match='damaged or was edited'):
        check_manifest(data)
    (data / MANIFEST).write_text('no JSON')
    with pytest.raises(DataError, match='cannot be read'):
        check_manifest(data)
    (data / MANIFEST).unlink()
    with pytest.raises(DataError, match='cone-training data manifest'):
        check_manifest(data)


def test_manifest_that_cannot_be_written_is_an_error(data, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(DataError, match='No space left'):
        write_manifest(data)


def test_command_writes_and_checks(data, capsys):
    assert main(['data', 'manifest', str(data)]) == 0
    assert read_manifest(data).sha256 in capsys.readouterr().out
    assert main(['data', 'manifest', str(data), '--check', '--full']) == 0
    write_label(data, 'val', 1, '')
    assert main(['data', 'manifest', str(data), '--check']) == 1
    assert 'changed: valid/labels/val_1.txt' in capsys.readouterr().out
