"""Calibration pictures: chosen to cover what there is, the same each time, never those of test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from planted_data import write_data_yaml, write_split

from cone_perception.errors import DataError, SettingsError, SourceError
from cone_perception.model_card import file_sha256
from cone_perception.preprocess import band_views, letterbox
from training.data.manifest import write_manifest
from training.export.calibration import Calibration, cover


def painted(seed: int, boxes: list[str], greys: list[int]) -> Iterator[tuple[np.ndarray, str]]:
    """Grey pictures, no two alike, with these labels."""
    random = np.random.default_rng(seed)
    for box, grey in zip(boxes, greys, strict=True):
        picture = np.full((72, 128, 3), grey, np.uint8)
        picture[:8, :8] = random.integers(0, 256, (8, 8, 3))
        yield picture, box


@pytest.fixture
def data(tmp_path):
    """20 pictures alike, then one of a rare class, a dark one and an empty one."""
    common, rare = '0 0.5 0.5 0.1 0.2\n', '1 0.5 0.5 0.4 0.9\n'
    train = painted(5, [common] * 20 + [rare, common, ''], [100] * 20 + [100, 20, 100])
    write_split(tmp_path, 'train', train)
    write_split(tmp_path, 'test', painted(4, [common] * 3, [90] * 3))
    folders = {'train': 'train/images', 'val': 'train/images', 'test': 'test/images'}
    write_data_yaml(tmp_path, ['blue_cone', 'orange_cone'], **folders)
    return tmp_path


def names(calibration: Calibration) -> list[str]:
    return [path.stem for path in calibration.pictures]


def test_rare_class_dark_picture_and_empty_picture_are_chosen(data):
    found = names(Calibration.from_split(data, 'train', 4, 96, 160))
    assert {'train020', 'train021', 'train022'} < set(found)
    assert found == names(Calibration.from_split(data, 'train', 4, 96, 160))


def test_small_split_is_taken_whole(data):
    assert len(names(Calibration.from_split(data, 'train', 300, 96, 160))) == 23


def test_what_is_covered_counts_less_each_time():
    strata = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 0]], float)
    assert cover(strata, 3) == [2, 0, 1]


def test_test_split_is_refused_by_name(data):
    with pytest.raises(SettingsError, match='come from train or val, not from test'):
        Calibration.from_split(data, 'test', 3, 96, 160)


@pytest.mark.parametrize('manifest', [False, True])
def test_copy_of_a_test_picture_is_refused(data, manifest):
    copy = data / 'train' / 'images' / 'train000.png'
    copy.write_bytes((data / 'test' / 'images' / 'test001.png').read_bytes())
    if manifest:
        write_manifest(data)
    with pytest.raises(DataError, match=r'train000\.png is a picture of the test split'):
        Calibration.from_split(data, 'train', 300, 96, 160)


def test_manifest_remembers_a_test_picture_that_was_moved(data):
    write_manifest(data)
    moved = data / 'test' / 'images' / 'test001.png'
    moved.rename(data / 'train' / 'images' / 'other.png')
    with pytest.raises(DataError, match=r'other\.png is a picture of the test split'):
        Calibration.from_split(data, 'train', 300, 96, 160)


def test_folder_of_test_pictures_is_refused(data):
    assert len(Calibration.from_folder(data, 300, 96, 160).pictures) == 23
    for folder in ('test', 'test/images'):
        with pytest.raises(SourceError, match='no pictures that are not of a test split'):
            Calibration.from_folder(data / folder, 3, 96, 160)


def test_listing_names_each_picture_with_its_hash(data):
    calibration = Calibration.from_split(data, 'train', 2, 96, 160)
    lines = [line.split('  ') for line in calibration.listing().splitlines()]
    assert [sha for sha, _ in lines] == [file_sha256(path) for path in calibration.pictures]
    assert [name for _, name in lines] == [path.name for path in calibration.pictures]


def test_pictures_are_shown_in_all_views_in_turn(tmp_path):
    """The band lies at the small labels; without any, at 45 % of the height."""
    random = np.random.default_rng(0)
    labels = ['0 0.5 0.7 0.01 0.02\n0 0.5 0.5 0.3 0.5\n'] * 4 + ['', '']
    pictures = [random.integers(0, 256, (192, 320, 3), np.uint8) for _ in labels]
    write_split(tmp_path, 'train', zip(pictures, labels, strict=True))
    write_data_yaml(tmp_path, ['blue_cone'], train='train/images', val='train/images')
    views = 'whole+horizon+strip'
    calibration = Calibration.from_split(tmp_path, 'train', 6, 96, 160, views)
    shown = [*calibration.shown()]

    def band(index, name, part, row_px):
        seen = np.empty((96, 160, 3), np.uint8)
        band_views(name, 192, 320, (96, 160), row_px)[part].apply(pictures[index], seen)
        return seen

    for index in (0, 4):
        np.testing.assert_array_equal(shown[index], letterbox(pictures[index], 96, 160))
    np.testing.assert_array_equal(shown[1], band(1, 'horizon', 0, 0.7 * 192))
    np.testing.assert_array_equal(shown[2], band(2, 'strip', 0, 0.7 * 192))
    np.testing.assert_array_equal(shown[3], band(3, 'strip', 1, 0.7 * 192))
    np.testing.assert_array_equal(shown[5], band(5, 'horizon', 0, 0.45 * 192))
