"""What a data set shows beside a race: other makes, leaning cones, flare, the own cockpit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cone_perception.classes import BLUE, LARGE_ORANGE, ORANGE, UNKNOWN, YELLOW
from training.simulate.bag import drive_frames
from training.simulate.camera import PinholeCamera, make_lens
from training.simulate.cone import FORMULA_STUDENT, Cone, ConePalette, make_cone, make_palette
from training.simulate.flare import draw_flare, make_weather
from training.simulate.makes import vary_palette
from training.simulate.renderer import render
from training.simulate.scene import Scene, SimulateSettings, make_scene
from training.simulate.scenery.cockpit import make_cockpit
from training.simulate.scenery.library import Library, make_library
from training.simulate.viewpoint import make_camera

SETTINGS = SimulateSettings(width_px=640, height_px=360, photo=0, clutter=0)
COLOURS = (BLUE, LARGE_ORANGE, ORANGE, YELLOW)


@pytest.fixture(scope='module')
def library() -> Library:
    return make_library(3)


@pytest.fixture(scope='module')
def scene(library: Library) -> Scene:
    return make_scene(np.random.default_rng(1), SETTINGS, library, 'circuit')


def other_palettes(count: int) -> list[ConePalette]:
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    return [vary_palette(rng, make_palette(rng), 1.0) for rng in rngs]


def test_boxes_of_other_makes_hold_the_painted_pixels(library: Library, scene: Scene) -> None:
    camera = PinholeCamera(640, 360, 350.0, 350.0, 319.5, 179.5, position_m=(0, 0, 0.9))
    for seed, palette in enumerate(other_palettes(6)):
        rng = np.random.default_rng(seed)
        fallen = float(seed % 2)
        spots = zip(COLOURS, (2.7, 0.9, -0.9, -2.7), strict=True)
        cones = [make_cone(rng, palette, (5.0, y), kind, fallen, 0.0) for kind, y in spots]
        assert all(cone.make != FORMULA_STUDENT for cone in cones)
        result = render(replace(scene, cones=tuple(cones)), camera, library, SETTINGS)
        assert len(result.labels) == len(cones)
        for label in result.labels:
            x0, y0, x1, y1 = (round(edge) for edge in label.xyxy_px)
            cone_id = int(np.bincount(result.ids[y0:y1, x0:x1].ravel())[1:].argmax()) + 1
            rows, columns = np.nonzero(result.ids == cone_id)
            seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(label.xyxy_px, seen, atol=1.5)


def test_plain_blue_and_yellow_keep_their_class_and_plain_orange_is_unknown() -> None:
    rng = np.random.default_rng(4)
    palette = make_palette(rng)
    plain = replace(palette, stripe=palette.body)
    cones = [make_cone(rng, plain, (5.0, 0.0), kind, 0.0, 0.0) for kind in COLOURS]
    assert [cone.class_id for cone in cones] == [BLUE, UNKNOWN, UNKNOWN, YELLOW]
    assert all(cone.stripe == cone.body for cone in cones)


def test_small_orange_cones_have_one_stripe_in_every_make() -> None:
    palettes = other_palettes(60)
    assert {len(palette.stripes[ORANGE]) for palette in palettes} == {1}
    assert {len(palette.stripes[BLUE]) for palette in palettes} == {1, 2}
    plain = [palette for palette in palettes if palette.stripe[BLUE] == palette.body[BLUE]]
    assert 5 < len(plain) < 40


def test_a_drive_has_formula_student_cones_and_leaves_the_other_makes_to_data_sets(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Cone] = []

    def watch(scene: Scene, *rest: object) -> object:
        seen.extend(scene.cones)
        return render(scene, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr('training.simulate.bag.render', watch)
    for seed in range(4):
        next(iter(drive_frames(SETTINGS, seed, 1.0, 1.0)))
    assert len(seen) > 100
    assert {cone.make for cone in seen} == {FORMULA_STUDENT}
    other = replace(SETTINGS, makes=1.0)
    made = make_scene(np.random.default_rng(0), other, library, 'circuit').cones
    assert FORMULA_STUDENT not in {cone.make for cone in made}


def test_cameras_roll_and_bend_and_every_lens_can_be_drawn(scene: Scene) -> None:
    settings = replace(SETTINGS, width_px=160, height_px=90)
    cameras = [make_camera(np.random.default_rng(k), settings, scene) for k in range(300)]
    rolled = np.mean([abs(camera.roll_rad) > np.radians(5) for camera in cameras])
    bent = [camera for camera in cameras if camera.distortion[1] > 0]
    assert 0.03 < rolled < 0.2
    assert 0.07 < len(bent) / len(cameras) < 0.2
    portrait = replace(settings, width_px=90, height_px=160)
    upright = [make_camera(np.random.default_rng(k), portrait, scene) for k in range(300)]
    for camera in cameras + upright:
        make_lens(camera)
    # A wide lens shows a post at the edge, seen from above, as leaning.
    camera = max(bent, key=lambda camera: camera.pitch_rad)
    level = replace(camera, position_m=(0.0, 0.0, 1.0), yaw_rad=0.0, roll_rad=0.0)
    post = level.to_optical([(1.6, 1.5, 0.0), (1.6, 1.5, 0.3)])
    foot, top = level.distort(post[:, :2] / post[:, 2:])
    assert abs(np.degrees(np.arctan2(top[0] - foot[0], foot[1] - top[1]))) > 10


def test_sun_of_a_flare_lights_the_scene_from_above_the_horizon(scene: Scene) -> None:
    camera = PinholeCamera(640, 360, 350.0, 350.0, 319.5, 179.5, pitch_rad=0.1)
    weather = [make_weather(np.random.default_rng(k), scene, camera, 1.0) for k in range(400)]
    lit = [(changed, flare) for changed, flare in weather if flare[2] > 0]
    assert 0.04 < len(lit) / len(weather) < 0.14
    assert all(changed.sun[2] > 0.1 and changed.sunlight >= 0.5 for changed, _ in lit)
    _, flare = lit[0]
    light = draw_flare(np.random.default_rng(0), 640, 360, flare)
    assert light.shape == (360, 640, 3)
    x, y = np.clip([flare[0] * 640, flare[1] * 360], 0, (639, 359)).astype(int)
    assert light[y, x].mean() > 2 * light[359 - y, 639 - x].mean()


def test_cockpit_covers_the_lower_middle_and_shows_colours_of_cones() -> None:
    for seed in range(5):
        patch = make_cockpit(np.random.default_rng(seed), 640, 360)
        assert patch.shape[1] == 640
        assert 0.3 * 360 < patch.shape[0] < 0.65 * 360
        assert (patch[-1, 300:340, 3] > 200).all()
        blue, red = patch[..., 0].astype(int), patch[..., 2].astype(int)
        assert np.count_nonzero((red - blue > 60) & (patch[..., 3] > 200)) > 20
