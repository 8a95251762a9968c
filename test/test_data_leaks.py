import json

import cv2
import numpy as np
import pytest
from planted_data import write_data_yaml, write_split

from cone_perception.errors import DataError, SettingsError
from training.cli import main
from training.data.leaks import find_leaks, name_sets
from training.data.like_pictures import cut_frame, hash_picture
from training.simulate.dataset import render_picture
from training.simulate.scene import SimulateSettings

SPLITS = {'train': 12, 'val': 3, 'test': 3}


@pytest.fixture(scope='session')
def scenes():
    """Rendered pictures, none like another: 640x360 BGR."""
    settings = SimulateSettings(width_px=640, height_px=360, vary_aspect=False)
    return [render_picture(settings, 6, 'train', index).image for index in range(40)]


@pytest.fixture
def sets(tmp_path, scenes):
    """Two data sets, `big` and `target`, of 18 different pictures each."""
    found = {}
    pictures = iter(scenes)
    for name in ('big', 'target'):
        found[name] = tmp_path / name
        for split, count in SPLITS.items():
            rows = {f'{split}{index}x.jpg': (next(pictures), '') for index in range(count)}
            write_split(found[name], split, rows)
        write_data_yaml(found[name], ['blue_cone'], **{s: f'{s}/images' for s in SPLITS})
    return found


def write(path, bgr, quality=95):
    assert cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def framed(bgr, logo=(0, 0, 255)):
    """A frame as FSOCO prints it: a black frame with a logo and a line of text below."""
    picture = cv2.copyMakeBorder(bgr, 60, 60, 60, 60, cv2.BORDER_CONSTANT)
    cv2.rectangle(picture, (70, len(picture) - 58), (200, len(picture) - 12), logo, -1)
    cv2.putText(picture, 'uploaded by a team', (210, len(picture) - 20), 0, 0.6, (255, 255, 255))
    return picture


COPIES = {
    're-encoded': lambda bgr: cv2.imdecode(cv2.imencode('.jpg', bgr, [1, 25])[1], 1),
    'stretched': lambda bgr: cv2.resize(bgr, (416, 416)),
    'halved': lambda bgr: cv2.resize(bgr, None, fx=0.5, fy=0.5),
    'brightened': lambda bgr: cv2.convertScaleAbs(bgr, alpha=1.1, beta=15),
    'darkened': lambda bgr: cv2.convertScaleAbs(bgr, alpha=0.6),
    'letterboxed': lambda bgr: cv2.copyMakeBorder(
        bgr, 140, 140, 0, 0, cv2.BORDER_CONSTANT, value=(114, 114, 114)
    ),
    'framed': framed,
}


@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize('copy', COPIES)
def test_copy_of_a_test_picture_is_left_out_of_both_training_splits(sets, scenes, copy, mirrored):
    original = sets['target'] / 'test' / 'images' / 'test1x.jpg'
    bgr = cv2.imread(str(original))
    bgr = COPIES[copy](bgr[:, ::-1] if mirrored else bgr)
    write(sets['big'] / 'train' / 'images' / 'copy.jpg', bgr, 80)
    write(sets['target'] / 'train' / 'images' / 'again.jpg', bgr, 80)
    report = find_leaks(sets)
    assert report.exclusions == {
        'big': ('train/images/copy.jpg',),
        'target': ('train/images/again.jpg',),
    }
    assert report.excluded('big') == {sets['big'] / 'train' / 'images' / 'copy.jpg'}
    pairs = {(pair.a.path, pair.b.path): pair for pair in report.pairs}
    assert len(pairs) == 3
    assert pairs['train/images/copy.jpg', 'test/images/test1x.jpg'].mirrored == mirrored
    assert report.counts['big/train', 'target/test'] == 1


def test_pictures_that_are_not_alike_leave_nothing_out(sets):
    report = find_leaks(sets)
    assert report.pairs == ()
    assert report.exclusions == {'big': (), 'target': ()}
    assert min(pair.bits for pair in report.closest) > 40
    assert all(sum(row) == 36 for row in report.nearest.values())


def test_copy_of_a_validation_picture_of_the_other_set_is_left_out(sets):
    copy = cv2.imread(str(sets['big'] / 'val' / 'images' / 'val0x.jpg'))
    write(sets['target'] / 'train' / 'images' / 'copy.png', copy)
    assert find_leaks(sets).exclusions['target'] == ('train/images/copy.png',)


def test_judged_splits_are_never_altered(sets):
    """Test like test, val like test, twice in a set and across: reported, and nothing else."""
    copy = cv2.imread(str(sets['target'] / 'test' / 'images' / 'test0x.jpg'))
    for place in ('target/test', 'target/val', 'big/test', 'big/val'):
        write(sets['big'].parent / place / 'images' / 'copy.jpg', copy)
    report = find_leaks(sets)
    assert report.exclusions == {'big': (), 'target': ()}
    assert sum(report.counts.values()) == 5 * 4 // 2
    assert report.counts['target/val', 'target/test'] == 2


def test_copies_within_training_are_reported_only(sets):
    copy = cv2.imread(str(sets['big'] / 'train' / 'images' / 'train0x.jpg'))
    write(sets['big'] / 'train' / 'images' / 'copy.jpg', copy)
    report = find_leaks(sets)
    assert report.exclusions == {'big': (), 'target': ()}
    assert report.counts == {('big/train', 'big/train'): 1}
    assert report.pairs[0].relation == 'within a split'


def test_frame_that_all_pictures_share_makes_none_alike(sets):
    plain = min(pair.bits for pair in find_leaks(sets).closest)
    for root in sets.values():
        for path in root.glob('*/images/*'):
            write(path, framed(cv2.imread(str(path))))
    report = find_leaks(sets)
    assert report.pairs == ()
    assert min(pair.bits for pair in report.closest) > plain - 10


def test_frame_is_cut_to_the_pixel_and_a_picture_without_one_stays_whole(scenes):
    grey = cv2.cvtColor(scenes[0], cv2.COLOR_BGR2GRAY)
    assert cut_frame(grey).shape == grey.shape
    inside = cut_frame(cv2.cvtColor(framed(scenes[0]), cv2.COLOR_BGR2GRAY))
    assert np.array_equal(inside, grey)


def test_consecutive_file_numbers_in_different_splits_are_reported(sets, scenes):
    for split, name in (('train', 'drive_0041'), ('test', 'drive_0042_jpg.rf.0123abcd')):
        write(sets['target'] / split / 'images' / f'{name}.jpg', scenes[36 + len(split) % 2])
    (pair,) = find_leaks(sets).consecutive
    assert {pair.a.split, pair.b.split} == {'train', 'test'}
    assert pair.bits > 40


def test_kept_hashes_are_used_until_the_file_changes(sets, tmp_path):
    cache = tmp_path / 'hashes.json'
    first = find_leaks(sets, cache=cache)
    text = cache.read_text()
    path = sets['big'] / 'train' / 'images' / 'train0x.jpg'
    stored = json.loads(text)
    key = next(key for key in stored['bits'] if key.startswith(str(path)))
    target = sets['target'] / 'test' / 'images' / 'test0x.jpg'
    stored['bits'][key] = hash_picture(target).tobytes().hex()
    cache.write_text(json.dumps(stored))
    assert find_leaks(sets, cache=cache).exclusions['big'] == ('train/images/train0x.jpg',)
    write(path, cv2.imread(str(path)), 60)
    assert find_leaks(sets, cache=cache).exclusions == first.exclusions
    cache.write_text(text[: len(text) // 2])
    assert find_leaks(sets, cache=cache).exclusions == first.exclusions


def test_picture_that_cannot_be_decoded_is_named(sets):
    (sets['big'] / 'train' / 'images' / 'train3x.jpg').write_bytes(b'no picture')
    report = find_leaks(sets)
    assert [picture.path for picture in report.unreadable] == ['train/images/train3x.jpg']


def test_one_set_under_two_names_is_refused(sets):
    with pytest.raises(DataError, match='are the same data set'):
        find_leaks({'a': sets['big'], 'b': sets['big'] / 'data.yaml'})


def test_impossible_threshold_is_refused(sets):
    with pytest.raises(SettingsError, match=r'leaks\.bits is 100'):
        find_leaks(sets, 100)


def test_command_writes_pairs_and_contact_sheet(sets, tmp_path, capsys):
    copy = cv2.imread(str(sets['target'] / 'test' / 'images' / 'test0x.jpg'))
    arguments = ['data', 'leaks', *map(str, sets.values()), '--out', str(tmp_path / 'out')]
    assert main(arguments) == 0
    write(sets['big'] / 'train' / 'images' / 'copy.jpg', copy)
    assert main(arguments) == 2
    assert '1 of 13 of big' in capsys.readouterr().out
    stored = json.loads((tmp_path / 'out' / 'leaks.json').read_text())
    assert stored['exclusions'] == {'big': ['train/images/copy.jpg'], 'target': []}
    assert stored['pairs'][0]['b'] == ['target', 'test', 'test/images/test0x.jpg']
    sheet = cv2.imread(str(tmp_path / 'out' / 'leaks.png'))
    assert sheet is not None
    assert sheet.std() > 10


def test_sets_of_the_same_name_are_told_apart(sets, tmp_path):
    other = tmp_path / 'other' / 'big'
    other.mkdir(parents=True)
    (other / 'data.yaml').write_text((sets['big'] / 'data.yaml').read_text())
    assert list(name_sets([sets['big'], other])) == ['big', 'big-2']


def test_real_sets_share_no_picture_although_one_has_a_frame(shared_data):
    report = find_leaks(name_sets([shared_data / 'cone-detector-mini', shared_data / 'fsoco-mini']))
    between = [pair.bits for pair in report.closest if pair.relation == 'between sets']
    assert min(between) > 60
    assert report.exclusions['cone-detector-mini'] == ()
    assert report.exclusions['fsoco-mini'] == (
        'train/images/amz_00224p.jpg',
        'train/images/amz_00735p.jpg',
        'train/images/amz_00736p.jpg',
    )
