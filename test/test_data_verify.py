"""Data sets with planted faults: each is found, named, and judged as training would meet it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from planted_data import CLASSES, COUNTS, DATA_YAML, picture_path, plant, write_label

from cone_perception.classes import map_classes
from cone_perception.dataset.labels import read_labels
from cone_perception.dataset.layout import Problem, label_path, read_layout
from cone_perception.dataset.split import read_split
from cone_perception.errors import DataError
from training.cli import main
from training.data.report import DataReport, write_normalised
from training.data.verify import verify_dataset

NOT_DROPPED = {
    'empty': '',
    'blank': '\n  \n',
    'polygon': '1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n',
    'polygons': '1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n2 0.1 0.1 0.3 0.1 0.2 0.4\n',
    'polygons of one box': '1 0.1 0.1 0.3 0.1 0.3 0.4\n1 0.3 0.1 0.3 0.4 0.1 0.4\n',
    'two points': '1 0.1 0.1 0.3 0.1 0.3 0.4\n2 0.1 0.1\n',
    'no extent': '0 0.5 0.5 0 0.1\n',
    'repeated': '0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n',
    'repeated, spelt otherwise': '0 0.5 0.5 0.1 0.1\n0.0 0.50 .5 1e-1 0.1\n',
    'byte-order mark': b'\xef\xbb\xbf0 0.5 0.5 0.1 0.1\n',
    'a little beyond': '0 1.009 0.5 0.1 0.1\n',
    'a little before': '0 -0.005 0.5 0.1 0.1\n',
    'tabs and carriage returns': '0\t0.5\t0.5\t0.1\t0.1\r\n\r\n4 0.5 0.5 0.1 0.1\r\n',
}
DROPPED = {
    'six columns': '0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1 0.9\n',
    'only six columns': '1 0.5 0.5 0.1 0.1 0.9\n',
    'four columns': '0 0.5 0.5 0.1\n',
    'class alone among polygons': '1 0.1 0.1 0.3 0.1 0.3 0.4\n2\n',
    'odd polygon': '1 0.1 0.1 0.3 0.1 0.3 0.4 0.1\n',
    'boxes and polygons': '0 0.5 0.5 0.1 0.1\n1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n',
    'class 5 of 5': '5 0.5 0.5 0.1 0.1\n',
    'class 1.5': '1.5 0.5 0.5 0.1 0.1\n',
    'class -1': '-1 0.5 0.5 0.1 0.1\n',
    'beyond': '0 1.02 0.5 0.1 0.1\n',
    'pixels': '0 320 240 30 40\n',
    'before': '0 -0.02 0.5 0.1 0.1\n',
    'negative width': '0 0.5 0.5 -0.001 0.1\n',
    'text': '0 0.5 0.5 0.1 0.1\nblue 0.5 0.5 0.1 0.1\n',
    'nan': '0 nan 0.5 0.1 0.1\n',
    'infinite': '0 0.5 0.5 inf 0.1\n',
    'not UTF-8': b'0 0.5 0.5 0.1 0.1 \xff\xfe\n',
    'commas': '0,0.5,0.5,0.1,0.1\n',
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return plant(tmp_path / 'cones')


def kinds(report: DataReport, fatal: bool | None = None) -> set[str]:
    return {entry.kind for entry in report.problems if fatal is None or entry.fatal is fatal}


def the(report: DataReport, kind: str) -> Problem:
    (problem,) = (entry for entry in report.problems if entry.kind == kind)
    return problem


def change_yaml(data: Path, **keys: object) -> None:
    content = yaml.safe_load((data / 'data.yaml').read_text()) | keys
    (data / 'data.yaml').write_text(yaml.safe_dump(content))


def test_sound_set_has_no_problem_and_right_counts(data):
    report = verify_dataset(data, COUNTS)
    assert report.ok
    assert report.problems == ()
    assert {split: counts.pictures for split, counts in report.counts.items()} == COUNTS
    train = report.counts['train']
    assert dict(train.boxes) == dict(zip(CLASSES, (2, 1, 1, 1, 7), strict=True))
    assert train.height_px == pytest.approx((6.4, 6.4, 19.2, 32, 32))
    json.dumps(report.to_json())


@pytest.mark.parametrize('name', DROPPED)
def test_line_that_costs_a_picture_is_named(data, name):
    label = write_label(data, 'train', 1, DROPPED[name])
    report = verify_dataset(data, COUNTS)
    assert report.would_drop == (picture_path(data, 'train', 1),)
    assert report.counts['train'].dropped == 1
    found = [entry for entry in report.problems if entry.file == str(label.relative_to(data))]
    lines = {
        'six columns': 2, 'class alone among polygons': 2, 'text': 2,
        'not UTF-8': 0, 'boxes and polygons': 0,
    }  # fmt: skip
    assert [entry.line for entry in found] == [lines.get(name, 1)]


@pytest.mark.parametrize('name', NOT_DROPPED)
def test_line_that_costs_nothing_drops_nothing(data, name):
    write_label(data, 'test', 0, NOT_DROPPED[name])
    report = verify_dataset(data, COUNTS)
    assert report.would_drop == ()
    assert report.ok


def encoded(suffix: str, picture: np.ndarray) -> bytes:
    return cv2.imencode(suffix, picture.astype(np.uint8))[1].tobytes()


def test_verdict_is_that_of_ultralytics(tmp_path):
    pytest.importorskip('ultralytics', exc_type=ImportError)
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from PIL import Image
    from ultralytics.data.dataset import YOLODataset

    data = tmp_path / 'planted'
    images = data / 'train' / 'images'
    for folder in (images, data / 'train' / 'labels'):
        folder.mkdir(parents=True)
    content = {'train': 'train/images', 'names': [*CLASSES]}
    (data / 'data.yaml').write_text(yaml.safe_dump(content))
    picture = encoded('.jpg', np.full((48, 64, 3), 90))
    labels = [*DROPPED.values(), *NOT_DROPPED.values()]
    for number, text in enumerate(labels):
        write_label(data, 'train', number, text)
    files = {f'train_{number}': picture for number in range(len(labels))} | {
        'no_label': picture,
        'truncated': picture[: len(picture) // 2],
        'trailing': picture + b'after the end',
        'empty_file': b'',
        'text_file': b'no picture',
        'header_only': picture[:30],
        'tiny': encoded('.jpg', np.zeros((9, 64, 3))),
        'least': encoded('.jpg', np.zeros((10, 10, 3))),
    }
    for name, content in files.items():
        (images / f'{name}.jpg').write_bytes(content)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for suffix in ('png', 'webp', 'bmp', 'tiff'):
        cv2.imwrite(str(images / f'sound_{suffix}.{suffix}'), image)
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(image).save(images / 'turned.jpg', exif=turned)
    gif = b'GIF89a@\x000\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x00\x00\x00\x00\x00'
    gif += b',\x00\x00\x00\x00@\x000\x00\x00\x02\x02D\x01\x00;'
    (images / 'moving.jpg').write_bytes(gif)
    damaged = bytearray(encoded('.png', np.full((48, 64, 3), 90)))
    damaged[60] ^= 255
    (images / 'damaged.png').write_bytes(damaged)

    report = verify_dataset(data, {})
    about = {'names': dict(enumerate(CLASSES)), 'channels': 3}
    scanned = YOLODataset(str(images), data=about, task='detect', augment=False, imgsz=64)
    kept = {Path(entry['im_file']).name: entry for entry in scanned.labels}
    everything = {picture.path.name for picture in report.pictures['train']}
    assert everything - set(kept) == {path.name for path in report.would_drop}
    assert len(kept) > len(NOT_DROPPED)
    for picture in report.pictures['train']:
        if picture.path.name in kept:
            theirs = kept[picture.path.name]
            rows = np.concatenate([theirs['cls'], theirs['bboxes']], 1)
            ours = picture.labels.rows
            assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, rows.tolist()))
            assert theirs['shape'] == picture.size_px[::-1]
    assert the(report, 'rewritten').file == 'train/images/trailing.jpg'


def test_picture_that_is_cut_off_is_named(data):
    path = picture_path(data, 'val', 2)
    path.write_bytes(path.read_bytes()[:-40])
    report = verify_dataset(data, COUNTS)
    problem = the(report, 'truncated-picture')
    assert (problem.file, problem.fatal) == ('valid/images/val_2.jpg', True)
    assert report.would_drop == (path,)


def test_picture_that_training_would_stop_at_is_fatal(data, monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', lambda data, flags: None)  # as OpenCV answers
    report = verify_dataset(data, COUNTS)
    named = {entry.file for entry in report.problems if entry.kind == 'undecodable' and entry.fatal}
    assert len(named) == sum(COUNTS.values())
    assert report.would_drop == ()  # Ultralytics looks at headers only


def test_faulty_label_is_fatal_where_it_changes_figures(data):
    for split in ('val', 'test'):
        label = write_label(data, split, 0, 'no box\n')
        assert not verify_dataset(data, COUNTS).ok
        label.write_text('0 0.5 0.5 0.1 0.1\n')
    assert verify_dataset(data, COUNTS).ok


def test_training_split_may_lose_one_picture_of_a_hundred(data):
    picture = picture_path(data, 'train', 0)
    for index in range(100, 200):
        picture.with_name(f'train_{index}.jpg').write_bytes(picture.read_bytes())
        write_label(data, 'train', index, '')
    write_label(data, 'train', 100, 'no box\n')
    report = verify_dataset(data, {})
    assert report.ok
    assert len(report.would_drop) == 1
    write_label(data, 'train', 101, 'no box\n')
    report = verify_dataset(data, {})
    assert the(report, 'dropped').fatal


def test_missing_pictures_are_counted(data):
    picture_path(data, 'train', 3).unlink()
    report = verify_dataset(data, COUNTS)
    assert 'train holds 5 pictures, expected were 6' in the(report, 'count').message
    assert the(report, 'no-picture').file == 'train/labels/train_3.txt'
    assert not report.ok


def test_split_that_was_expected_but_is_not_named_is_fatal(data):
    (data / 'data.yaml').write_text(DATA_YAML.replace('test: ../test/images\n', ''))
    assert 'count' in kinds(verify_dataset(data, COUNTS), fatal=True)
    assert verify_dataset(data, {}).ok


def test_picture_without_label_is_background(data):
    label_path(picture_path(data, 'train', 0)).unlink()
    report = verify_dataset(data, COUNTS)
    assert report.ok
    assert the(report, 'no-label').file == 'train/images/train_0.jpg'
    assert report.counts['train'].background == 1


def test_label_beside_its_picture_is_fatal_for_every_command(data):
    picture = picture_path(data, 'val', 0)
    label_path(picture).rename(picture.with_suffix('.txt'))
    found = the(verify_dataset(data, COUNTS), 'stray-label')
    assert found.fatal
    assert found.file.endswith(f'{picture.stem}.txt')
    with pytest.raises(DataError, match='beside its picture, where nobody reads it'):
        read_split(data, 'val')


def test_download_key_is_refused_and_not_executed(data, tmp_path):
    mark = tmp_path / 'executed'
    change_yaml(data, download=f'open({str(mark)!r}, "w")')
    report = verify_dataset(data, COUNTS)
    assert the(report, 'download-key').fatal
    assert not mark.exists()


def test_python_object_in_yaml_is_no_data_set(data):
    (data / 'data.yaml').write_text('train: !!python/object/apply:os.getcwd []\n')
    with pytest.raises(DataError, match='cannot be read'):
        verify_dataset(data, {})


def test_path_that_is_no_data_set_says_so(tmp_path):
    with pytest.raises(DataError, match='no data set'):
        verify_dataset(tmp_path, {})
    (tmp_path / 'data.yaml').write_text('just text')
    with pytest.raises(DataError, match='no mapping'):
        verify_dataset(tmp_path, {})


@pytest.mark.parametrize(
    'names',
    [
        ['yellow_cone', 'unknown_cone', 'orange_cone', 'large_orange_cone', 'blue_cone'],
        ['Yellow Cone', 'unknown', 'orange-cone', 'big_orange', 'blue'],
    ],
)
def test_other_order_is_mapped_and_normalised(data, tmp_path, names):
    before = verify_dataset(data, COUNTS).counts['train'].boxes
    change_yaml(data, names=names)
    report = verify_dataset(data, COUNTS)
    assert report.ok
    assert not the(report, 'class-mapping').fatal
    assert list(report.class_mapping.values()) == list(reversed(CLASSES))
    written = write_normalised(report, tmp_path / 'normal')
    after = verify_dataset(written, COUNTS)
    assert after.problems == ()
    assert after.names == CLASSES
    assert after.counts['train'].boxes == report.counts['train'].boxes
    assert dict(after.counts['train'].boxes)['blue_cone'] == before['yellow_cone']
    first = (tmp_path / 'normal' / 'train' / 'labels' / 'train_0.txt').read_text()
    assert first.splitlines()[0] == '4 0.5 0.5 0.25 0.5'


def test_fewer_classes_are_mapped(data):
    for split, count in COUNTS.items():
        for index in range(count):
            write_label(data, split, index, '1 0.5 0.5 0.1 0.1\n')
    change_yaml(data, names={0: 'blue_cone', 1: 'yellow_cone'}, nc=2)
    report = verify_dataset(data, COUNTS)
    assert report.ok
    assert report.counts['test'].boxes['yellow_cone'] == 2
    write_label(data, 'test', 0, '2 0.5 0.5 0.1 0.1\n')
    assert 'class' in kinds(verify_dataset(data, COUNTS), fatal=True)


def test_unknown_class_is_refused_when_it_is_used(data):
    change_yaml(data, names=['blue_cone', 'traffic_light', *CLASSES[2:]])
    report = verify_dataset(data, COUNTS)
    assert the(report, 'class-name').fatal
    assert 'traffic_light' in the(report, 'class-name').message
    for split in ('train', 'val'):
        write_label(data, split, 1, '0 0.5 0.5 0.1 0.1\n')
    write_label(data, 'test', 1, '')
    report = verify_dataset(data, COUNTS)
    assert report.ok
    assert not the(report, 'class-name').fatal


def empty_test(data: Path) -> None:
    for path in (data / 'test' / 'images').iterdir():
        path.unlink()


def make_twin(data: Path) -> None:
    path = picture_path(data, 'val', 0)
    path.with_suffix('.jpeg').write_bytes(path.read_bytes())


def make_ambiguous(data: Path) -> None:
    plant(data.parent / 'cones_too')
    (data.parent / 'train').symlink_to(data.parent / 'cones_too' / 'train')


@pytest.mark.parametrize(
    ('fault', 'kind'),
    [
        (lambda data: (data / 'valid' / 'labels').rename(data / 'valid' / 'other'), 'no-labels'),
        (empty_test, 'empty-split'),
        (make_twin, 'shared-label'),
        (make_ambiguous, 'ambiguous-path'),
        (lambda data: change_yaml(data, names=['blue', 'Blue Cone', *CLASSES[2:]]), 'class-twice'),
        (lambda data: change_yaml(data, names=None), 'names'),
        (lambda data: change_yaml(data, nc=4), 'names'),
        (lambda data: change_yaml(data, names={0: 'blue_cone', 2: 'yellow_cone'}, nc=2), 'names'),
    ],
)
def test_planted_fault_is_fatal(data, fault, kind):
    fault(data)
    assert the(verify_dataset(data, {}), kind).fatal


def test_every_alias_stands_for_one_class():
    aliases = {
        0: ['blue', 'blue_cones', 'cone_blue', 'Blue Cone', 'blue-cone'],
        1: ['large_orange', 'orange_large_cone', 'BIG_ORANGE', 'cone_orange_big'],
        2: ['orange', 'small_orange_cone', 'orange_small', 'cone_orange'],
        3: ['unknown', 'other_cone', 'cone_other'],
        4: ['yellow', 'yellow_cones', 'cone_yellow'],
    }
    for class_id, names in aliases.items():
        assert map_classes(names) == dict.fromkeys(range(len(names)), class_id)
    assert set(map_classes(CLASSES).items()) == {(i, i) for i in range(5)}
    assert map_classes(['cone', 'other', 'blue yellow']) == {}


def test_picture_in_two_splits_is_fatal(data):
    change_yaml(data, test=['../test/images', 'train/images'])
    report = verify_dataset(data, {})
    assert {entry.file for entry in report.problems if entry.kind == 'in-two-splits'} == {
        f'train/images/train_{index}.jpg' for index in range(6)
    }
    assert 'in-two-splits' in kinds(report, fatal=True)


def test_copy_in_another_split_is_told_from_a_shared_name(data):
    copy = picture_path(data, 'test', 0).with_name('train_2.jpg')
    copy.write_bytes(picture_path(data, 'train', 2).read_bytes())
    write_label(data, 'test', 9, '').rename(label_path(copy))
    assert 'same-picture' in kinds(verify_dataset(data, {}), fatal=False)
    copy.write_bytes(picture_path(data, 'train', 1).read_bytes())
    assert 'double-name' in kinds(verify_dataset(data, {}), fatal=False)


def test_name_twice_in_the_test_split_is_fatal(data, tmp_path):
    other = plant(tmp_path / 'other')
    change_yaml(data, test=['test/images', str(other / 'test' / 'images')])
    report = verify_dataset(data, {})
    assert 'double-name' in kinds(report, fatal=True)
    change_yaml(data, test='test/images', train=['train/images', str(other / 'train' / 'images')])
    report = verify_dataset(data, {'train': 12})
    assert report.ok
    written = write_normalised(report, tmp_path / 'normal')
    assert len(read_layout(written).splits['train']) == 12


def test_list_file_is_read_as_ultralytics_reads_it(data):
    (data / 'train.txt').write_text('./train/images/train_0.jpg\n./train/images/train_1.jpg\n')
    change_yaml(data, train='train.txt')
    report = verify_dataset(data, {'train': 2})
    assert report.ok
    assert report.counts['train'].boxes['yellow_cone'] == 2


def test_folder_that_does_not_exist_is_named(data):
    change_yaml(data, val='../nowhere/images')
    assert 'nowhere' in the(verify_dataset(data, {}), 'no-folder').message


def test_path_relative_to_the_working_directory_is_said(data):
    change_yaml(data, path='.')
    report = verify_dataset(data, COUNTS)
    assert kinds(report, fatal=False) == {'relative-path'}
    assert report.ok


def test_copy_whose_path_leads_to_the_original_is_refused(data, tmp_path):
    change_yaml(data, path=str(data))
    assert 'path' not in kinds(verify_dataset(data, COUNTS))
    copy = tmp_path / 'copy'
    shutil.copytree(data, copy)
    found = the(verify_dataset(copy, COUNTS), 'path')
    assert found.fatal
    assert str(data) in found.message
    with pytest.raises(DataError, match='has its own, which nobody would read'):
        read_split(copy, 'val')
    (tmp_path / 'elsewhere').mkdir()
    shutil.copy(copy / 'data.yaml', tmp_path / 'elsewhere')
    assert not the(verify_dataset(tmp_path / 'elsewhere', COUNTS), 'absolute-path').fatal
    assert str(data) in read_split(tmp_path / 'elsewhere', 'val').notes[0]


def test_normalised_set_leaves_the_original_alone(data, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in data.rglob('*')}
    write_label(data, 'test', 1, '1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n0 0.5 0.5 0.1 0.1\n')
    report = verify_dataset(data, COUNTS)
    assert report.ok  # dropped as it is, whole once normalised
    folder = tmp_path / 'normal'
    left_out = picture_path(data, 'train', 4)
    write_normalised(report, folder, exclude=[left_out])
    written = write_normalised(report, folder, exclude=[left_out])  # a second time: the same
    after = verify_dataset(written, {**COUNTS, 'train': 5})
    assert after.problems == ()
    assert after.counts['test'].boxes['large_orange_cone'] == 1
    assert (folder / 'train' / 'images' / 'train_0.jpg').is_symlink()
    write_label(data, 'test', 1, '1 0.5 0.5 0.25 0.5\n4 0.2 0.2 0.1 0.1\n')
    assert set(before) == set(data.rglob('*'))


def test_normalised_set_lacks_unreadable_training_pictures(data, tmp_path):
    for index in range(100, 200):
        path = picture_path(data, 'train', index)
        path.write_bytes(picture_path(data, 'train', 0).read_bytes())
    picture_path(data, 'train', 150).write_bytes(b'no picture')
    report = verify_dataset(data, {})
    assert report.ok
    written = write_normalised(report, tmp_path / 'normal')
    assert len(read_layout(written).splits['train']) == len(read_layout(data).splits['train']) - 1


def test_set_with_fatal_problems_is_not_normalised(data, tmp_path):
    report = verify_dataset(data, {'train': 7})
    with pytest.raises(DataError, match='expected were 7'):
        write_normalised(report, tmp_path / 'normal')
    with pytest.raises(DataError, match='another folder'):
        write_normalised(verify_dataset(data, {}), data)
    shutil.copytree(data / 'train', tmp_path / 'other' / 'train')
    with pytest.raises(DataError, match='no links'):
        write_normalised(verify_dataset(data, {}), tmp_path / 'other')
    assert any((tmp_path / 'other' / 'train' / 'images').iterdir())


def test_changed_file_is_fatal_once_there_is_a_manifest(data):
    assert main(['data', 'manifest', str(data)]) == 0
    report = verify_dataset(data, COUNTS)
    assert report.ok
    assert len(report.manifest_sha256) == 64
    write_label(data, 'train', 0, '')
    assert the(verify_dataset(data, COUNTS), 'manifest-changed').file == 'train/labels/train_0.txt'


def test_only_what_is_trained_on_must_be_as_the_manifest_says(data):
    (data / 'README.txt').write_text('about')
    main(['data', 'manifest', str(data)])
    (data / 'README.txt').unlink()
    (data / 'notes.txt').touch()
    report = verify_dataset(data, COUNTS)
    assert report.ok
    assert kinds(report) == {'manifest-missing', 'manifest-extra'}
    copy = picture_path(data, 'train', 0)
    copy.with_name('another.jpg').write_bytes(copy.read_bytes())
    assert 'manifest-extra' in kinds(verify_dataset(data, {}), fatal=True)


def test_command_prints_writes_and_says_by_status(data, tmp_path, capsys):
    expect = ['--expect', *(f'{split}={count}' for split, count in COUNTS.items())]
    command = ['data', 'verify', str(data), *expect]
    out = ['--json', str(tmp_path / 'r' / 'report.json'), '--plot', str(tmp_path / 'r' / 'd.html')]
    assert main([*command, *out]) == 0
    assert 'fine' in capsys.readouterr().out
    assert json.loads((tmp_path / 'r' / 'report.json').read_text())['ok'] is True
    page = (tmp_path / 'r' / 'd.html').read_text()
    for kind in ('classes', 'box heights', 'boxes per picture', 'picture sizes'):
        assert f'"title":{{"text":"{kind}"}}' in page
    assert main([*command, '--plot', 'distributions.png']) == 1
    write_label(data, 'train', 0, '0 0.5 0.5 0.1 0.1\n' * 2)
    assert main(command) == 0
    assert main([*command, '--strict']) == 1
    write_label(data, 'test', 1, '0 0.5 0.5\n')
    assert main(command) == 1
    assert 'test/labels/test_1.txt:1: has 3 columns' in capsys.readouterr().out
    assert main(['data', 'verify', str(tmp_path)]) == 1
    assert main([*command[:3], '--expect', 'tset=3']) == 1


def test_counts_are_known_by_the_folder_name(tmp_path, capsys):
    data = plant(tmp_path / 'FSOCO-12')
    assert main(['data', 'verify', str(data)]) == 1
    assert 'test holds 2 pictures, expected were 689' in capsys.readouterr().out


def test_repeated_row_counts_once(tmp_path):
    (tmp_path / 'a.txt').write_text(NOT_DROPPED['repeated'])
    labels = read_labels(tmp_path / 'a.txt', 5)
    assert len(labels.rows) == 2
    assert [(fault.line, fault.kind) for fault in labels.faults] == [(2, 'duplicate-row')]


def test_shared_sets_are_sound(shared_data):
    report = verify_dataset(shared_data / 'cone-detector-mini', {'train': 498, 'test': 45})
    assert report.problems == ()
    assert report.counts['train'].boxes['yellow_cone'] == 3312
