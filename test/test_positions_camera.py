"""From pixels to rays: against an exact projection the other way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_calibration import LENSES, TURN, K, P, camera_info, rays_within, taken

from cone_perception.errors import CalibrationError
from cone_perception.positions.camera import CameraModel, is_rectified


@pytest.mark.parametrize('lens', LENSES)
def test_points_are_rectified_to_where_their_rays_meet_the_rectified_picture(lens):
    info = camera_info(lens)
    camera = CameraModel.of(info, rectified=False)
    rays = rays_within(1.0, np.random.default_rng(1))  # the corners of the picture lie at 1.04
    true = rays[:, :2] * P[[0, 1], [0, 1]] + P[:2, 2]
    rectified = camera.rectify_points(taken(info, rays))
    assert np.abs(rectified - true).max() < 1e-3
    assert np.abs(camera.rays(rectified) - rays).max() < 1e-5
    assert np.abs(camera.unrectify_points(true) - taken(info, rays)).max() < 1e-6
    assert np.abs(camera.project(rays * 7.0) - true).max() < 1e-9
    assert camera.rectify_points(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize('seed', range(20))
def test_points_of_any_lens_are_rectified_up_to_where_it_folds(seed):
    rng = np.random.default_rng(seed)
    barrel = (rng.uniform(-0.4, 0.3), rng.uniform(-0.1, 0.15), *rng.normal(0, 1e-3, 2))
    more = (rng.normal(0, 0.02), rng.uniform(0, 0.9), rng.uniform(0, 0.2), rng.normal(0, 0.02))
    fisheye = tuple(rng.normal(0, [0.05, 0.02, 0.01, 0.003]).tolist())
    focal_px = rng.uniform(350, 900)
    k = np.array([[focal_px, 0, 640], [0, 1.01 * focal_px, 360], [0, 0, 1]])
    models = {'plumb_bob': barrel, 'rational_polynomial': barrel + more, 'equidistant': fisheye}
    for model, d in models.items():
        info = camera_info(k=k)._replace(distortion_model=model, d=d)
        camera = CameraModel.of(info, rectified=False)
        rays = rays_within(2.5, rng)
        true = camera.project(rays)
        pixels = camera.unrectify_points(true)
        seen = ((pixels >= 0) & (pixels < [1280, 720])).all(axis=1)
        assert seen.sum() > 100
        np.testing.assert_allclose(pixels[seen], taken(info, rays[seen]), atol=1e-6)
        assert np.abs(camera.rectify_points(pixels[seen]) - true[seen]).max() < 0.005, model


def test_where_the_model_folds_there_is_no_point():
    info = camera_info('none')._replace(d=(-0.3, 0.0, 0.0, 0.0, 0.0))
    camera = CameraModel.of(info, rectified=False)
    # r - 0.3 r^3 is largest at r = 1.054, and 0.703 there: farther pixels show nothing.
    edge_px = 640 + 700 * 0.703
    points_px = np.array([[x, 360.0] for x in (640.0, edge_px - 5, edge_px + 2, 1279.0, np.nan)])
    assert np.isnan(camera.rectify_points(points_px)).any(axis=1).tolist() == [0, 0, 1, 1, 1]
    # A ray from beyond lands on a pixel that a nearer ray owns.
    beyond = np.array([[1.4, 0.0, 1.0]]) @ TURN.T
    assert 640 < taken(info, beyond)[0, 0] < edge_px
    assert np.isnan(camera.unrectify_points(camera.project(beyond))).all()
    assert np.isnan(camera.project(np.array([[1.0, 0.0, -1.0], [1.0, 0.0, 0.0]]))).all()


def test_a_patch_shows_a_spot_where_its_rectified_point_lies():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:720, :1280]
    for lens in LENSES:
        info = camera_info(lens)
        camera = CameraModel.of(info, rectified=False)
        camera.prepare()
        for ray in rays_within(0.45, rng, 4):
            (spot,) = taken(info, ray[None])
            far = (x - spot[0]) ** 2 + (y - spot[1]) ** 2
            picture = np.round(250 * np.exp(-far / 18)).astype(np.uint8)
            (aim,) = camera.project(ray[None])
            left, top = (int(part) - 20 for part in aim)
            patch = camera.rectify_patch(picture, left, top, left + 41, top + 42)
            assert patch.shape == (42, 41)
            rows, columns = np.mgrid[top : top + 42, left : left + 41]
            middle = [(part * patch).sum() / patch.sum() for part in (columns, rows)]
            assert np.abs(middle - aim).max() < 0.1, lens
            colours = camera.rectify_patch(np.dstack([picture] * 3), left, top, left + 5, top + 5)
            assert (colours == patch[:5, :5, None]).all()


def test_a_patch_is_black_where_the_camera_sees_nothing():
    info = camera_info('none', r=np.eye(3), p=np.hstack([K, np.zeros((3, 1))]))
    camera = CameraModel.of(info._replace(d=(-0.3, 0.0, 0.0, 0.0, 0.0)), rectified=False)
    white = np.full((720, 1280), 255, np.uint8)
    wide = replace(camera, fx_px=300.0, fy_px=300.0)  # sees up to 2.1, beyond the fold at 1.05
    row = wide.rectify_patch(white, 640, 360, 1280, 361)[0]
    assert (row[:300] == 255).all()
    assert (row[330:] == 0).all()
    assert camera.reach_px == (-160, -90, 1440, 810)
    for edges in ((-161, 0, 5, 5), (0, 0, 1441, 5), (5, 5, 5, 6), (0, 700, 5, 811)):
        with pytest.raises(ValueError, match=r'leaves \(-160, -90, 1440, 810\)'):
            camera.rectify_patch(white, *edges)


def test_what_a_lens_draws_in_from_beyond_the_border_is_rectified_too():
    camera = CameraModel.of(camera_info('barrel'), rectified=False)
    aim_px = np.array([[-100.0, 360.0]])
    x, y = camera.unrectify_points(aim_px)[0].round().astype(int)
    assert x > 8
    picture = np.zeros((720, 1280), np.uint8)
    picture[y - 4 : y + 5, x - 4 : x + 5] = 255
    row = camera.rectify_patch(picture, -160, 360, 0, 361)[0]
    assert row[60] == 255
    assert (row[[20, 100]] == 0).all()


def test_rectified_pictures_are_left_as_they_are():
    info = camera_info('barrel')  # image_proc sends the D of the raw picture with the rectified one
    nothing = (float('nan'),)
    camera = CameraModel.of(info._replace(d=nothing, r=nothing * 9), rectified=True)
    picture = np.zeros((720, 1280, 3), np.uint8)
    camera.prepare()
    assert np.shares_memory(camera.rectify_patch(picture, 3, 4, 30, 40), picture)
    points_px = np.array([[12.5, 700.25], [np.nan, 3.0]])
    for same in (camera.rectify_points, camera.unrectify_points):
        np.testing.assert_array_equal(same(points_px), points_px)
    assert (camera.fx_px, camera.cy_px) == (690, 355)
    without = CameraModel.of(camera_info('barrel', p=np.zeros(12)), rectified=True)
    assert (without.fx_px, without.fy_px, without.cx_px, without.cy_px) == (700, 705, 640, 360)
    # One camera alone: no R, and the rectified picture has the K of the raw one.
    alone = CameraModel.of(camera_info('barrel', r=np.zeros(9), p=np.zeros(12)), rectified=False)
    np.testing.assert_allclose(alone.rectify_points(K[:2, 2][None]), K[:2, 2][None], atol=1e-6)


@pytest.mark.parametrize(
    'topic, lens, turn, rectified',
    [
        ('/zed/zed_node/left/color/rect/image', 'barrel', TURN, True),
        ('/zed/zed_node/left/color/rect/image/compressed', 'barrel', TURN, True),
        ('/camera/left/image_rect_color', 'barrel', TURN, True),
        ('/camera/left/image_rect', 'barrel', TURN, True),
        ('/camera/left/image_raw', 'barrel', TURN, False),
        ('/camera/direct/image', 'barrel', np.eye(3), False),
        ('/camera/left/image_raw', 'none', np.eye(3), True),
        ('/camera/left/image_raw', 'none', np.zeros(9), True),
        ('/camera/left/image_raw', 'none', TURN, False),
        ('/camera/left/image_raw', 'plain fisheye', np.eye(3), False),
    ],
)
def test_the_topic_says_whether_pictures_are_rectified_else_camera_info(
    topic, lens, turn, rectified
):
    info = camera_info(lens, r=turn)
    assert is_rectified('auto', topic, info) is rectified
    assert is_rectified('yes', topic, info)
    assert not is_rectified('no', topic, info)


@pytest.mark.parametrize(
    'change, rectified, message',
    [
        ({'k': (0.0,) * 9, 'p': (0.0,) * 12}, True, 'P and K of camera_info are zero'),
        ({'k': (0.0,) * 9, 'p': (0.0,) * 12}, False, 'P and K of camera_info are zero'),
        ({'k': (0.0,) * 9}, False, 'K of camera_info has the focal lengths 0 and 0 px'),
        ({'p': (-690.0, 0.0, 650.0, *P.ravel()[3:])}, True, 'P .* focal lengths -690 and 690 px'),
        ({'p': (float('nan'), *P.ravel()[1:])}, True, 'P of camera_info is not finite'),
        ({'d': (float('inf'), 0, 0, 0, 0)}, False, 'D of camera_info is not finite'),
        ({'r': (1.0, *(0.0,) * 8)}, False, 'R of camera_info is no rotation'),
        ({'r': (-1.0, 0, 0, 0, 1, 0, 0, 0, 1)}, False, 'R of camera_info is no rotation'),
        ({'distortion_model': 'fov'}, False, "model 'fov', not one of plumb_bob, .*rectified: yes"),
        ({'d': (0.1, 0.2, 0.3)}, False, 'D of camera_info has 3 numbers, but plumb_bob has 4 or 5'),
        ({'distortion_model': 'equidistant', 'd': ()}, False, 'has 0 numbers, but equidistant'),
        ({'width_px': 0}, True, 'camera_info is for pictures of 0x720 pixels'),
    ],
)
def test_what_camera_info_cannot_say_is_named(change, rectified, message):
    with pytest.raises(CalibrationError, match=message):
        CameraModel.of(camera_info()._replace(**change), rectified)


def test_pictures_must_be_as_large_as_camera_info_says():
    camera = CameraModel.of(camera_info(), rectified=True)
    camera.check_picture(1280, 720, 'left')
    with pytest.raises(CalibrationError, match='^right pictures are 640x360, .* for 1280x720'):
        camera.check_picture(640, 360, 'right')
