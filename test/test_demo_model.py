"""Crops at the runtime's scale, and runs that refuse what would go wrong quietly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from planted_data import write_data_yaml, write_split

from cone_perception.classes import CLASS_NAMES
from cone_perception.errors import SourceError
from cone_perception.types import Float32
from training.demo_model.command import ClockedRun, Drives, cut_datasets, train, write_drives
from training.stage.training_set import CropRules, clip_boxes, crops_of


def make_dataset(folder: Path, names: tuple[str, ...] = CLASS_NAMES) -> Path:
    """One grey 1280x720 picture per split with one blue cone, 200x100 px, in the middle."""
    for split in ('train', 'val'):
        picture = np.full((720, 1280, 3), 90, np.uint8)
        picture[260:460, 590:690] = (255, 0, 0)
        write_split(folder, split, [(picture, f'0 0.5 0.5 {100 / 1280} {200 / 720}\n')])
    return write_data_yaml(folder, names).parent


def test_crop_shows_the_cone_at_network_scale_inside_its_box(tmp_path: Path) -> None:
    counts = cut_datasets([make_dataset(tmp_path / 'data')], tmp_path / 'crops', CropRules(8))
    assert counts == {'train': 8, 'val': 8}
    labelled = 0
    for path in (tmp_path / 'crops' / 'train' / 'images').iterdir():
        crop = cv2.imread(str(path))
        assert crop.shape == (CropRules().size_px, CropRules().size_px, 3)
        rows, columns = np.nonzero(crop[..., 0] > 170)
        text = (path.parents[1] / 'labels' / f'{path.stem}.txt').read_text()
        for line in text.splitlines():
            class_id, x, y, w, h = (float(value) for value in line.split())
            assert class_id == 0
            box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * CropRules().size_px
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, seen, atol=1.5)
            labelled += 1
    assert labelled >= 4  # every second crop is aimed at the cone


def test_same_seed_cuts_the_same_crops(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / 'data')
    cut = []
    for name, seed in (('first', 3), ('same', 3), ('other', 4)):
        cut_datasets([data], tmp_path / name, CropRules(seed=seed))
        files = sorted((tmp_path / name / 'train').rglob('*.*'))
        cut.append([path.read_bytes() for path in files])
    assert cut[0] == cut[1] != cut[2]


def test_box_with_too_little_left_is_dropped() -> None:
    boxes = np.array(
        [
            [0, -60, 10, 40, 60],  # 40 % left
            [1, -80, 10, 20, 60],  # 20 % left
            [2, 310, 100, 340, 150],  # 33 % left, at the right border
            [3, 50, 50, 60, 53],  # 3 px tall
        ],
        np.float32,
    )
    clipped = clip_boxes(boxes, 0, 0, CropRules(visible=0.3, height_px=4))
    np.testing.assert_array_equal(clipped, [[0, 0, 10, 40, 60], [2, 310, 100, 320, 150]])


def test_picture_smaller_than_a_crop_is_padded_grey() -> None:
    picture = np.zeros((160, 640, 3), np.uint8)
    rows = np.array([[4, 0.48, 0.25, 0.03, 0.25]], np.float32)
    for crop, _ in crops_of(picture, rows, CropRules(4), np.random.default_rng(0)):
        assert (crop[:160] == 0).all()
        assert (crop[160:] == 114).all()


def planted_crops(
    heights_px: tuple[int, ...], rules: CropRules, width_px: int = 1280
) -> list[tuple[int, Float32]]:
    """Cut 40 pictures with a magenta square for each height, from left to right: for each crop its
    number of magenta pixels and its labels, whose class is the square's place.
    """
    height_px = width_px * 9 // 16
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    rows = []
    for place, side in enumerate(heights_px):
        left = (2 * place + 1) * width_px // (2 * len(heights_px))
        picture[200 : 200 + side, left : left + side] = (255, 0, 255)
        x, y = left + side / 2, 200 + side / 2
        rows.append((place, x / width_px, y / height_px, side / width_px, side / height_px))
    labels, random = np.array(rows, np.float32), np.random.default_rng(0)
    cut = []
    for turn in range(0, 40 * rules.per_picture, rules.per_picture):
        for crop, inside in crops_of(picture, labels, rules, random, turn):
            cut.append((int((crop[..., 0] > 127).sum()), inside))
    return cut


@pytest.mark.parametrize('per_picture', [1, 2, 3, 4, 5])
def test_widths_take_turns_over_all_pictures(per_picture: int) -> None:
    rules = CropRules(per_picture, widths_px=(640, 640, 1280, 2560))
    cut = planted_crops((24,), rules)
    for place, (pixels, inside) in enumerate(cut):
        side_px = (12, 12, 24, 48)[place % 4]
        for box in inside[:, 1:]:
            sides = box[2:] - box[:2]
            assert pixels == pytest.approx(sides.prod(), rel=0.15)
            assert sides.max() == pytest.approx(side_px, abs=0.01) or 0 in box or 320 in box
    shown = [[bool(len(inside)) for _, inside in cut[place::4]] for place in range(4)]
    assert all(sum(seen) >= 0.3 * len(seen) for seen in shown)
    assert sum(shown[3]) >= 0.7 * len(shown[3])  # far more than chance would show at this scale


def test_crops_above_the_least_width_are_aimed_at_small_cones() -> None:
    rules = CropRules(2, widths_px=(640, 2560))
    cut = planted_crops((24, 200), rules)
    seen = [[set(inside[:, 0].astype(int)) for _, inside in cut[place::2]] for place in range(2)]
    assert sum(1 in classes for classes in seen[0]) >= 10
    assert sum(0 in classes for classes in seen[1]) >= 0.7 * len(seen[1])
    near = planted_crops((200,), rules)[1::2]
    assert sum(bool(pixels) for pixels, _ in near) >= 0.7 * len(near)  # no small one: the near one


def test_narrow_picture_is_magnified_twice_at_most() -> None:
    cut = planted_crops((24,), CropRules(3, widths_px=(320, 640, 2560)), width_px=480)
    sides = {round(float(row[3] - row[1])) for _, inside in cut for row in inside}
    assert max(sides) == 48
    small = planted_crops((24,), CropRules(2, widths_px=(1280,)), width_px=480)
    assert max(float(row[3] - row[1]) for _, inside in small for row in inside) == 64


def test_dataset_with_other_classes_is_refused(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / 'data', names=('yellow_cone', 'blue_cone'))
    with pytest.raises(SourceError, match='yellow_cone'):
        cut_datasets([data], tmp_path / 'crops', CropRules())


def test_missing_weights_are_refused_before_anything_is_looked_up(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / 'data')
    with pytest.raises(SourceError, match=r'nowhere\.pt does not exist'):
        train(data, tmp_path / 'run', ClockedRun(model=str(tmp_path / 'nowhere.pt')))


def test_run_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / 'data')
    out = tmp_path / 'run'
    out.mkdir()
    (out / 'recipe.json').write_text('{"lr": 1.0}')
    with pytest.raises(SourceError, match='has another .*lr'):
        train(data, out, ClockedRun())


def test_drives_become_pictures_with_labels(tmp_path: Path) -> None:
    assert write_drives(tmp_path, Drives(seed=5, count=2, seconds=0.2, hz=10)) == 4
    labels = sorted((tmp_path / 'test' / 'labels').iterdir())
    assert [path.stem for path in labels] == ['5_0000', '5_0001', '6_0000', '6_0001']
    assert labels[0].read_text() != labels[2].read_text()
    assert cv2.imread(str(tmp_path / 'test' / 'images' / '5_0000.jpg')).shape == (720, 1280, 3)
