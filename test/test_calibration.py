"""Calibration pictures: chosen to cover what there is, the same each time, never those of test."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from cone_perception.errors import DataError, SettingsError, SourceError
from cone_perception.model_card import file_sha256
from training.data.manifest import write_manifest
from training.export.calibration import Calibration, cover


def write_split(root: Path, split: str, boxes: list[str], greys: list[int]) -> None:
    for kind in ('images', 'labels'):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(split))
    for index, (box, grey) in enumerate(zip(boxes, greys, strict=True)):
        picture = np.full((72, 128, 3), grey, np.uint8)
        picture[:8, :8] = random.integers(0, 256, (8, 8, 3))
        cv2.imwrite(str(root / split / 'images' / f'{split}{index:03}.png'), picture)
        (root / split / 'labels' / f'{split}{index:03}.txt').write_text(box)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 pictures alike, then one of a rare class, a dark one and an empty one."""
    common, rare = '0 0.5 0.5 0.1 0.2\n', '1 0.5 0.5 0.4 0.9\n'
    write_split(tmp_path, 'train', [common] * 20 + [rare, common, ''], [100] * 20 + [100, 20, 100])
    write_split(tmp_path, 'test', [common] * 3, [90] * 3)
    content = {
        'names': ['blue_cone', 'orange_cone'],
        'train': 'train/images',
        'val': 'train/images',
    }
    (tmp_path / 'data.yaml').write_text(yaml.safe_dump({**content, 'test': 'test/images'}))
    return tmp_path


def names(calibration: Calibration) -> list[str]:
    return [path.stem for path in calibration.pictures]


def test_rare_class_dark_picture_and_empty_picture_are_chosen(data: Path) -> None:
    found = names(Calibration.from_split(data, 'train', 4, 96, 160))
    assert {'train020', 'train021', 'train022'} < set(found)
    assert found == names(Calibration.from_split(data, 'train', 4, 96, 160))


def test_small_split_is_taken_whole(data: Path) -> None:
    assert len(names(Calibration.from_split(data, 'train', 300, 96, 160))) == 23


def test_what_is_covered_counts_less_each_time() -> None:
    strata = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 0]], float)
    assert cover(strata, 3) == [2, 0, 1]


def test_test_split_is_refused_by_name(data: Path) -> None:
    with pytest.raises(SettingsError, match='come from train or val, not from test'):
        Calibration.from_split(data, 'test', 3, 96, 160)


@pytest.mark.parametrize('manifest', [False, True])
def test_copy_of_a_test_picture_is_refused(data: Path, manifest: bool) -> None:
    copy = data / 'train' / 'images' / 'train000.png'
    copy.write_bytes((data / 'test' / 'images' / 'test001.png').read_bytes())
    if manifest:
        write_manifest(data)
    with pytest.raises(DataError, match=r'train000\.png is a picture of the test split'):
        Calibration.from_split(data, 'train', 300, 96, 160)


def test_manifest_remembers_a_test_picture_that_was_moved(data: Path) -> None:
    write_manifest(data)
    moved = data / 'test' / 'images' / 'test001.png'
    moved.rename(data / 'train' / 'images' / 'other.png')
    with pytest.raises(DataError, match=r'other\.png is a picture of the test split'):
        Calibration.from_split(data, 'train', 300, 96, 160)


def test_folder_of_test_pictures_is_refused(data: Path) -> None:
    assert len(Calibration.from_folder(data, 300, 96, 160).pictures) == 23
    for folder in ('test', 'test/images'):
        with pytest.raises(SourceError, match='no pictures that are not of a test split'):
            Calibration.from_folder(data / folder, 3, 96, 160)


def test_listing_names_each_picture_with_its_hash(data: Path) -> None:
    calibration = Calibration.from_split(data, 'train', 2, 96, 160)
    lines = [line.split('  ') for line in calibration.listing().splitlines()]
    assert [sha for sha, _ in lines] == [file_sha256(path) for path in calibration.pictures]
    assert [name for _, name in lines] == [path.name for path in calibration.pictures]
