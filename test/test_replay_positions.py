"""Positions of a replay against where the cones stand: figures that can be computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from browser import ReadPage, open_page
from recorded_drive import at, frame_at, pictures, serialised, write
from replay_results import cones, result, trace, write_bag

from cone_perception.bags.cones3d import cones_message
from cone_perception.bags.reader import CONES, bag_types, detections_message
from cone_perception.classes import CLASS_NAMES
from cone_perception.pages.page import render_page, write_page
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.budget import Limit, over_budget
from cone_perception.replay.figures.compare import compare
from cone_perception.replay.figures.positions import (
    PositionErrors,
    errors_of,
    position_figures,
    why_not_judged,
)
from cone_perception.replay.pages.report import report_page
from cone_perception.replay.traces import FrameTrace, Pace, Pass
from cone_perception.types import RANGE_SOURCES, Positions

STEREO, HEIGHT = RANGE_SOURCES.index('stereo'), RANGE_SOURCES.index('height')
FRAME = 'base_footprint'
PERIOD_NS = 500_000_000


TRUTH, TRUTH_3D = '/camera/left/ground_truth', '/camera/ground_truth_3d'
BOXES = [('blue_cone', (2.0, 4.0, 10.0, 20.0)), ('yellow_cone', (12.0, 4.0, 20.0, 20.0))]


def truth_bag(path, ids_3d, frames=3):
    """Two cones, 4 and 7, in pixels; those of ids_3d in metres, each at x = its number."""
    store, messages = bag_types(), pictures('/camera/left/image', range(frames))
    there = places(*[(float(one or 0), 1.0) for one in ids_3d])
    for frame in map(frame_at, map(at, range(frames))):
        flat = detections_message(store, frame, BOXES, ids=['4', '7'])
        solid = cones_message(store, frame, ids_3d, [0] * len(ids_3d), there)
        optical = cones_message(store, frame, ['4'], [0], places((99.0, 0.0)))
        for topic, message in ((TRUTH, flat), (TRUTH_3D, solid), (f'{TRUTH}_3d', optical)):
            messages.append((topic, frame.stamp_ns, serialised(message)))
    return write(path, messages, {TRUTH_3D: CONES, f'{TRUTH}_3d': CONES})


def test_places_of_a_bag_are_those_of_the_truths_ids_in_the_cars_frame(tmp_path):
    drive = open_drive(truth_bag(tmp_path / 'bag', ['7', '1', '4']), class_names=CLASS_NAMES)
    assert drive.places.keys() == drive.truth.keys() == {('left', at(i)) for i in range(3)}
    there = drive.places['left', at(0)]
    assert there.xyz_m[:, 0].tolist() == [4.0, 7.0]
    assert there.frame_id == FRAME
    assert not drive.problems


def test_cone_that_stands_nowhere_is_not_judged(tmp_path):
    drive = open_drive(truth_bag(tmp_path / 'bag', ['7']), class_names=CLASS_NAMES)
    there = drive.places['left', at(0)]
    assert there.known.tolist() == [False, True]
    key = ('left', at(0))
    one = FrameTrace('left', 0, at(0), 'answered', 0, found=drive.truth[key], positions=there)
    assert len(PositionErrors.of([one], drive.truth, drive.places, (0.0, 0.0))) == 1


def test_places_that_contradict_themselves_are_named(tmp_path):
    drive = open_drive(truth_bag(tmp_path / 'bag', ['7', '7']), class_names=CLASS_NAMES)
    assert drive.places is None
    (problem,) = drive.problems
    assert 'several cones with the id 7' in problem


def boxes(count):
    return cones(*[(100.0 * i, 10.0, 100.0 * i + 40, 70.0) for i in range(count)])


def places(*feet, sigma_m=0.0, source=STEREO, frame_id=FRAME):
    """Positions at (x, y) on the ground, with the same standard deviation in all directions."""
    xyz_m = np.array([(*foot, 0.0) for foot in feet], np.float64).reshape(-1, 3)
    n = len(xyz_m)
    covariance_m2 = np.repeat(np.eye(3)[None] * sigma_m**2, n, axis=0)
    return Positions(xyz_m, covariance_m2, np.full(n, source), frame_id)


def drive(*answers, found=None):
    """A pass with these positions, each frame half a second after the other."""
    frames = [
        FrameTrace(
            'left', i, i * PERIOD_NS, 'answered', i * PERIOD_NS, found=found or boxes(len(each)),
            positions=each,
        )
        for i, each in enumerate(answers)
    ]  # fmt: skip
    return Pass(Pace(), frames)


def known(one, *feet):
    """Truth and places of each frame of the pass: the same cones."""
    keys = [(frame.camera, frame.stamp_ns) for frame in one.frames]
    return dict.fromkeys(keys, boxes(len(feet))), dict.fromkeys(keys, places(*feet))


def values(one, truth, there, camera_m=(0.0, 0.0)):
    figures = position_figures([one], truth, there, camera_m)
    return {name: figure.value for name, figure in figures.items()}


def test_depth_is_along_the_line_of_sight_and_across_is_square_to_it():
    # A cone at (6, 8) is 10 m away. Along: (0.6, 0.8), to the left of that (-0.8, 0.6).
    off = places((6 + 0.6 * 0.3 - 0.8 * 0.1, 8 + 0.8 * 0.3 + 0.6 * 0.1), sigma_m=0.2)
    one = drive(off)
    truth, there = known(one, (6.0, 8.0))
    errors = PositionErrors.of(one.frames, truth, there, (0.0, 0.0))
    assert errors.range_m == pytest.approx([10.0])
    assert errors.depth_m == pytest.approx([0.3])
    assert errors.across_m == pytest.approx([0.1])
    assert errors.sigma_m == pytest.approx([0.2])
    assert errors.nees == pytest.approx([(0.3**2 + 0.1**2) / 0.2**2 / 2])


def test_line_of_sight_begins_at_the_camera():
    one = drive(places((11.0, 1.0), sigma_m=1.0))
    truth, there = known(one, (10.0, 1.0))
    errors = PositionErrors.of(one.frames, truth, there, (4.0, 1.0))
    assert (errors.range_m, errors.depth_m) == (pytest.approx([6.0]), pytest.approx([1.0]))
    assert errors.across_m == pytest.approx([0.0])


def test_figures_of_each_range():
    feet = [(5.0, 0.0), (10.0, 0.0), (10.0, 3.0), (20.0, 0.0)]
    found = places((5.1, 0.0), (10.2, 0.4), (12.0, 3.0), (23.0, 0.0), sigma_m=0.3)
    found.source[:] = [STEREO, STEREO, HEIGHT, 0]
    found.xyz_m[3] = np.nan
    one = drive(found, found)
    value = values(one, *known(one, *feet))
    assert value['depth_median_m 5 m'] == pytest.approx(0.1)
    assert value['depth_bias_m 5 m'] == pytest.approx(0.1)
    far = 2 * 10 / math.hypot(10, 3)  # along the line to (10, 3)
    assert value['depth_bias_m 10 m'] == pytest.approx((0.2 + far) / 2)
    assert value['depth_p90_m 10 m'] == pytest.approx(np.quantile([0.2, 0.2, far, far], 0.9))
    assert value['position_share'] == 0.75
    assert value['position_share 20 m'] == 0
    assert value['by_stereo_share 10 m'] == 0.5
    assert value['wrong_over_1m_share'] == pytest.approx(1 / 3)
    assert value['wrong_over_1m_share 5 m'] == 0
    assert value['inside_1_sigma_share'] == pytest.approx(2 / 3)
    assert math.isnan(value['depth_p90_m 20 m'])
    assert math.isnan(value['position_share 30 m'])


def test_far_positions_may_be_off_without_being_wrong_over_all():
    one = drive(places((10.0, 0.0), (22.0, 0.0), sigma_m=2.0))
    value = values(one, *known(one, (10.0, 0.0), (20.0, 0.0)))
    assert value['wrong_over_1m_share'] == 0
    assert value['wrong_over_1m_share 20 m'] == 1


def test_honest_covariances_have_a_nees_of_one_and_normal_shares():
    rng = np.random.default_rng(0)
    feet = rng.uniform((3, -5), (25, 5), (4000, 2))
    sigma_m = rng.uniform(0.1, 1.0, 4000)
    found = places(*(feet + rng.normal(size=(4000, 2)) * sigma_m[:, None]))
    found.covariance_m2[:] = sigma_m[:, None, None] ** 2 * np.eye(3)
    one = drive(found)
    value = values(one, *known(one, *feet))
    assert value['position_nees'] == pytest.approx(1, abs=0.06)
    assert value['depth_nees'] == pytest.approx(1, abs=0.08)
    assert value['inside_1_sigma_share'] == pytest.approx(0.683, abs=0.03)
    assert value['inside_2_sigma_share'] == pytest.approx(0.954, abs=0.02)


def test_covariance_of_zero_is_infinitely_too_sure():
    one = drive(places((10.0, 0.1)))
    assert values(one, *known(one, (10.0, 0.0)))['position_nees'] == math.inf


def test_cone_of_the_wrong_colour_is_judged_and_one_that_is_none_is_not():
    found = cones((0, 10, 40, 70), (700, 10, 740, 70), class_id=3)
    one = drive(places((5.0, 0.0), (9.0, 0.0), sigma_m=1.0), found=found)
    truth, there = known(one, (5.0, 0.0), (7.0, 0.0))
    assert PositionErrors.of(one.frames, truth, there, (0.0, 0.0)).range_m == pytest.approx([5.0])


def test_answers_without_any_position_are_not_judged_and_a_single_one_counts_as_none():
    one = drive(places((5.0, 0.0), sigma_m=1.0), places((5.0, 0.0), sigma_m=1.0))
    truth, there = known(one, (5.0, 0.0))
    silent = [replace(frame, positions=None) for frame in one.frames]
    assert values(Pass(Pace(), silent), truth, there) == {}
    half = Pass(Pace(), [one.frames[0], silent[1]])
    assert values(half, truth, there)['position_share'] == 0.5


def test_other_frame_is_named_instead_of_judged():
    one = drive(places((5.0, 0.0), frame_id='camera_optical'))
    truth, there = known(one, (5.0, 0.0))
    assert values(one, truth, there) == {}
    why = why_not_judged(one.frames, there)
    assert "'camera_optical'" in why
    assert 'mount_height_m' in why
    assert why_not_judged(drive(places((5.0, 0.0))).frames, there) == ''


def noisy(seed, sigma_m):
    """Forty frames of three cones, found with that much noise."""
    rng = np.random.default_rng(seed)
    feet = np.array([(5.0, 1.0), (10.0, -1.0), (15.0, 1.0)])
    answers = [
        places(*(feet + rng.normal(size=(3, 2)) * sigma_m), sigma_m=sigma_m) for _ in range(40)
    ]
    one = drive(*answers)
    truth, there = known(one, *feet)
    figures = position_figures([one], truth, there, (0.0, 0.0))
    whole = result([one.frames], truth=truth, places=there)
    return replace(whole, figures={**whole.figures, **figures})


def test_intervals_hold_the_value():
    figure = noisy(0, 0.2).figure('depth_median_m')
    assert figure.low < figure.value < figure.high


def test_two_replays_are_paired_and_the_worse_one_is_told():
    fine, worse = noisy(0, 0.1), noisy(1, 0.5)
    fine, worse = (
        replace(
            each, model={**each.model, 'thresholds': dict.fromkeys(each.model['class_names'], 0.5)}
        )
        for each in (fine, worse)
    )
    compared = compare(fine, worse).differences
    assert compared['depth_p90_m 10 m'].verdict == 'worse'
    assert 'paired by frame' in compared['depth_p90_m 10 m'].why
    assert compared['position_share'].verdict == 'equal'
    assert len(errors_of(fine, fine.frames)) == 120


def test_budget_knows_positions():
    budget = {'depth_p90_m 10 m': Limit(max=0.3), 'wrong_over_1m_share': Limit(max=0.005)}
    assert over_budget(noisy(0, 0.1), budget) == []
    (reason,) = over_budget(noisy(0, 0.3), budget)
    assert 'Look at the plots over range' in reason


# --- the page ---


def page_of(whole, bag=None):
    return ReadPage(render_page(report_page(whole, bag)))


def test_page_shows_errors_by_range_and_a_frame_from_above():
    page = page_of(noisy(0, 0.2))
    assert {'Positions', 'Seen from above', 'The same frame'} <= set(page.titles())
    assert [cell for cell in page.cells if cell in ('5 m', '10 m', '15 m', '20 m')] == [
        '5 m', '10 m', '15 m',
    ]  # fmt: skip
    assert '90 of 100 by at most' in page.text
    assert 'No picture of' in page.text
    drawn = {trace['name']: trace for figure in page.figures() for trace in figure['data']}
    assert {'median, all', 'p90, by stereo', 'inside 1 sigma', 'depth alone', 'camera'} <= set(
        drawn
    )
    # The cone at (5, 1) stands one metre to the left; its ring is drawn there.
    assert (drawn['true cones']['x'][0], drawn['true cones']['y'][0]) == (-1.0, 5.0)
    ellipse = np.array([drawn['blue, 2 sigma'][axis] for axis in 'xy'], np.float64).T[:25]
    middle = np.array([drawn['blue'][axis][0] for axis in 'xy'])
    assert np.linalg.norm(ellipse - middle, axis=1) == pytest.approx([0.4] * 25, abs=1e-3)


def test_page_without_truth_shows_the_top_view_alone():
    whole = noisy(0, 0.2)
    page = page_of(replace(whole, truth=None, places=None, figures=result([]).figures))
    assert 'Seen from above' in page.titles()
    assert 'Positions' not in page.titles()


def test_page_of_positions_in_the_cameras_frame_looks_along_its_axis():
    one = drive(places((0.5, 0.1), sigma_m=0.1, frame_id='camera_optical'))
    one.frames[0].positions.xyz_m[:] = [(0.5, 0.9, 7.0)]
    settings = {'settings': {'base_frame': FRAME}}
    whole = result([one.frames])
    whole = replace(whole, configuration={**whole.configuration, **settings})
    drawn = {t['name']: t for f in page_of(whole).figures() for t in f['data']}
    assert (drawn['blue']['x'], drawn['blue']['y']) == ([0.5], [7.0])


def test_page_without_positions_says_nothing_of_them():
    assert not {'Positions', 'Seen from above'} & set(page_of(result([[trace(0)]])).titles())


def test_page_is_drawn_and_shows_the_picture_of_the_frame(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 1})
    whole = noisy(0, 0.2)
    whole = replace(whole, passes=[whole.passes[0][:1]])
    write_page(tmp_path / 'page.html', report_page(whole, bag))
    opened = open_page(tmp_path / 'page.html')
    assert opened.drawn >= 6
    assert opened.console == []
    assert 'left 0 0.000 s 3 cones, 3 of them placed' in ReadPage(opened.dom).text
