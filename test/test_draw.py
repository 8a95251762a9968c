"""Cones drawn into pictures."""

from __future__ import annotations

import numpy as np
import pytest
from replay_results import cones

from cone_perception.pictures.draw import class_colour, draw_caption, draw_cones, short_name
from cone_perception.types import Detections

NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')


def grey(height=720, width=1280):
    return np.full((height, width, 3), 114, np.uint8)


@pytest.mark.parametrize('class_id', range(5))
def test_box_is_drawn_on_its_edges_in_the_colour_of_its_class(class_id):
    picture = draw_cones(grey(), cones((400, 300, 440, 380), class_id=class_id), NAMES)
    colour = class_colour(NAMES[class_id])
    for y, x in ((300, 420), (380, 420), (340, 400), (340, 440)):
        assert tuple(picture[y, x]) == colour
    assert (picture[310:370, 410:430] == 114).all(), 'the cone itself stays visible'


def test_the_picture_given_stays_as_it_was():
    original = grey()
    draw_cones(original, cones((400, 300, 440, 380)), NAMES, cones((100, 100, 130, 150)))
    assert (original == 114).all()


def test_no_cones_leave_the_picture_as_it_was():
    assert (draw_cones(grey(), Detections.empty(), NAMES, Detections.empty()) == 114).all()


def test_every_class_has_a_colour_of_its_own():
    assert len({class_colour(name) for name in (*NAMES, 'traffic_light')}) == 6


def test_label_is_inside_the_picture_also_for_a_box_at_its_border():
    for box in ((0, 0, 30, 40), (1250, 680, 1280, 720), (0, 700, 20, 720)):
        picture = draw_cones(grey(), cones(box), NAMES)
        filled = (picture == class_colour('blue_cone')).all(axis=2).sum()
        assert filled > 500, f'label of {box} is cut off'


def test_labels_of_cones_side_by_side_do_not_cover_the_boxes():
    boxes = [(300 + 40 * i, 300, 330 + 40 * i, 340) for i in range(5)]
    picture = draw_cones(grey(), cones(*boxes), NAMES)
    for left, top, right, bottom in boxes:
        assert (picture[top + 2 : bottom - 1, left + 2 : right - 1] == 114).all()


@pytest.mark.parametrize('size', [(1, 1), (7, 3), (3000, 4096), (1280, 720)])
def test_any_size_of_picture_can_be_drawn_into(size):
    height, width = size
    box = (0, 0, width, height)
    picture = draw_cones(grey(height, width), cones(box), NAMES, cones(box))
    draw_caption(picture, 'frame 1')
    assert picture.shape == (height, width, 3)


def test_truth_is_dashed_around_the_cone():
    picture = draw_cones(grey(), Detections.empty(), NAMES, cones((400, 300, 440, 380)))
    row = (picture[298, 398:442] == class_colour('blue_cone')).all(axis=1)
    assert 0.3 < row.mean() < 0.8


def test_caption_is_white_on_dark():
    picture = grey()
    draw_caption(picture, 'frame 12')
    assert picture[:25, :100].max() > 200
    assert picture[1, 1].max() < 40


def test_short_name_of_a_class():
    assert [short_name(name) for name in NAMES[:2]] == ['blue', 'large orange']
