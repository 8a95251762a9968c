from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from cone_perception.bags.reader import bag_types, detections_of
from cone_perception.classes import BLUE, CLASS_NAMES, LARGE_ORANGE, ORANGE, UNKNOWN, YELLOW
from cone_perception.errors import OutputError, RecipeError
from training.cli import main
from training.simulate.bag import drive_frames, write_drive
from training.simulate.camera import PinholeCamera, load_camera, make_lens
from training.simulate.cone import Cone, make_cone, make_palette
from training.simulate.cone_view import cone_points
from training.simulate.dataset import render_picture, write_dataset
from training.simulate.photo import motion_kernel
from training.simulate.renderer import Rendering, render
from training.simulate.scene import Scene, SimulateSettings, Thing
from training.simulate.scenery.library import Library, make_library
from training.simulate.staged import stage_scene, standing_cone
from training.simulate.track import make_circuit, make_straight

SMALL = SimulateSettings(width_px=320, height_px=180)
FULL = SimulateSettings(photo=0, clutter=0)


@pytest.fixture(scope='module')
def library() -> Library:
    return make_library(3)


@pytest.fixture(scope='module')
def empty_scene(library: Library) -> Scene:
    return stage_scene([], library)


PLAIN = PinholeCamera(1280, 720, 700.0, 700.0, 639.5, 359.5, position_m=(0.0, 0.0, 1.0))
LOW = replace(PLAIN, position_m=(0.0, 0.0, 0.3))


@pytest.fixture
def shoot(empty_scene: Scene, library: Library) -> Callable[..., Rendering]:
    """Renders cones on empty ground."""

    def render_cones(*cones: Cone, camera: PinholeCamera = PLAIN) -> Rendering:
        return render(replace(empty_scene, cones=cones), camera, library, FULL)

    return render_cones


def analytic_box(cone: Cone, camera: PinholeCamera) -> np.ndarray:
    """Projection of all outline points, by OpenCV's own camera model."""
    rings, plate, _ = cone_points([cone])
    points = np.concatenate([rings.reshape(-1, 3), plate.reshape(-1, 3)])
    rotation = camera.rotation
    shift = -rotation @ np.array(camera.position_m)
    pixels, _ = cv2.projectPoints(
        points, cv2.Rodrigues(rotation)[0], shift, camera.matrix, np.array(camera.distortion)
    )
    pixels = pixels.reshape(-1, 2) + 0.5
    return np.concatenate([pixels.min(0), pixels.max(0)])


LENSES = [replace(PLAIN, distortion=(k1, 0.01, 0.001, -0.001, 0.0)) for k1 in (-0.1, 0.03)]


@pytest.mark.parametrize(
    'place,camera',
    [
        *((place, PLAIN) for place in [(2.5, 0.4), (6.0, -2.0), (12.0, 3.0), (25.0, -4.0)]),
        *(((5.0, 2.5), camera) for camera in LENSES),
    ],
)
def test_box_of_a_free_cone_is_its_projection(
    shoot: Any, place: tuple[float, float], camera: PinholeCamera
) -> None:
    cone = standing_cone(*place)
    (label,) = shoot(cone, camera=camera).labels
    np.testing.assert_allclose(label.xyxy_px, analytic_box(cone, camera), atol=1.0)


def test_painted_pixels_lie_in_the_box(shoot: Any) -> None:
    camera = replace(load_camera(), position_m=(0.0, 0.0, 1.0))
    result = shoot(standing_cone(4.0, 1.5), camera=camera)
    rows, columns = np.nonzero(result.ids == 1)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(result.labels[0].xyxy_px, seen, atol=1.5)


def test_height_in_the_picture_follows_from_size_and_distance(shoot: Any) -> None:
    result = shoot(standing_cone(20.0, 1.0), standing_cone(20.0, -1.0, LARGE_ORANGE))
    heights = {label.class_id: label.xyxy_px[3] - label.xyxy_px[1] for label in result.labels}
    assert heights[BLUE] == pytest.approx(700 * 0.325 / 20, abs=1.0)
    assert heights[LARGE_ORANGE] == pytest.approx(700 * 0.505 / 20, abs=1.0)


def test_half_hidden_cone_keeps_only_its_visible_part(shoot: Any) -> None:
    far = standing_cone(8.0, 0.0, YELLOW)
    free = shoot(far, camera=LOW).labels[0]
    labels = shoot(far, standing_cone(4.0, 0.09), camera=LOW).labels
    hidden = next(label for label in labels if label.class_id == YELLOW)
    assert hidden.visible < free.visible
    assert hidden.xyxy_px[0] > free.xyxy_px[0] + 3
    assert hidden.xyxy_px[2] == pytest.approx(free.xyxy_px[2], abs=1.0)


def test_cone_behind_a_wall_has_no_label(empty_scene: Scene, library: Library) -> None:
    wall = np.full((40, 400, 4), 255, np.uint8)
    walls = replace(library, sprites={**library.sprites, 'wall': [(wall,)]})
    thing = Thing('wall', 0, (5.0, 0.0), 8.0, 1.5, False, (1.0, 1.0, 1.0))
    scene = replace(empty_scene, things=(thing,), cones=(standing_cone(8.0, 0.0),))
    assert render(scene, PLAIN, walls, FULL).labels == []


def test_cone_at_the_border_is_cut_there(shoot: Any) -> None:
    left_edge = 4.0 * 640 / 700
    (label,) = shoot(standing_cone(4.0, left_edge)).labels
    assert label.xyxy_px[0] == 0
    assert 0.3 < label.visible < 0.7
    assert shoot(standing_cone(4.0, left_edge + 0.5)).labels == []


def test_cone_lower_than_the_minimum_has_no_label(shoot: Any) -> None:
    height_4_px_m = 700 * 0.325 / 4
    cones = standing_cone(height_4_px_m * 0.9, 0.0), standing_cone(height_4_px_m * 1.2, 3.0)
    labels = shoot(*cones).labels
    assert [round(label.depth_m) for label in labels] == [round(height_4_px_m * 0.9)]


@pytest.mark.parametrize('axis,shown', [((1.0, 0.0, 0.0), UNKNOWN), ((0.0, 1.0, 0.0), BLUE)])
def test_cone_that_shows_only_its_foot_is_unknown(shoot: Any, axis: Any, shown: int) -> None:
    lying = replace(standing_cone(4.0, 0.0), axis=axis, lift_m=0.114)
    assert shoot(lying, camera=LOW).labels[0].class_id == shown


@pytest.mark.parametrize('cone_class', [BLUE, LARGE_ORANGE, ORANGE, YELLOW])
def test_cone_without_a_stripe_is_unknown(cone_class: int) -> None:
    rng = np.random.default_rng(2)
    palette = make_palette(rng)
    bare = make_cone(rng, palette, (5.0, 0.0), cone_class, fallen=0.0, stripeless=1.0)
    striped = make_cone(rng, palette, (5.0, 0.0), cone_class, fallen=0.0, stripeless=0.0)
    assert (bare.class_id, striped.class_id) == (UNKNOWN, cone_class)
    assert bare.stripe == bare.body
    assert striped.stripe != striped.body


@pytest.mark.parametrize('seed', range(6))
def test_blue_stands_left_and_yellow_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for track in (make_circuit(rng), make_straight(rng)):
        for place, cone_class in zip(track.cones_m, track.cone_class, strict=True):
            if cone_class not in (BLUE, YELLOW):
                continue
            nearest = int(np.argmin(np.hypot(*(track.centre_m - place).T)))
            heading = track.heading_rad[nearest]
            offset = place - track.centre_m[nearest]
            left = -math.sin(heading) * offset[0] + math.cos(heading) * offset[1]
            assert (left > 0) == (cone_class == BLUE)


@pytest.mark.parametrize('seed', range(6))
def test_circuit_keeps_to_the_rules(seed: int) -> None:
    track = make_circuit(np.random.default_rng(seed))
    counts = np.bincount(track.cone_class, minlength=5)
    assert counts[LARGE_ORANGE] == 4
    assert counts[ORANGE] >= 12
    assert 3 <= track.width_m <= 5
    for side in (BLUE, YELLOW):
        places = track.cones_m[track.cone_class == side]
        gaps = np.hypot(*np.diff(places, axis=0).T)
        assert gaps.max() <= 5.0


def test_same_seed_gives_the_same_picture_and_another_seed_or_split_another() -> None:
    first, again = (render_picture(SMALL, 5, 'train', 3) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.labels == again.labels
    assert first.image.shape == (180, 320, 3)
    for seed, split in ((6, 'train'), (5, 'val')):
        assert (first.image != render_picture(SMALL, seed, split, 3).image).any()


def test_dataset_goes_on_where_it_stopped_and_is_the_same(tmp_path: Path) -> None:
    counts = {'train': 3, 'val': 1, 'test': 1}
    write_dataset(tmp_path / 'a', SMALL, 9, {'train': 2, 'val': 0, 'test': 0})
    kept = (tmp_path / 'a/train/images/train_000000.jpg').stat().st_mtime_ns
    (tmp_path / 'a/train/labels/train_000001.txt').unlink()
    write_dataset(tmp_path / 'a', SMALL, 9, counts)
    write_dataset(tmp_path / 'b', SMALL, 9, counts, workers=2)
    assert (tmp_path / 'a/train/images/train_000000.jpg').stat().st_mtime_ns == kept
    pictures = sorted(p.relative_to(tmp_path / 'b') for p in (tmp_path / 'b').rglob('*_00*'))
    assert len(pictures) == 10
    for name in pictures:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_dataset_of_another_seed_is_not_mixed_in(tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL, 1, {'train': 1, 'val': 0, 'test': 0})
    with pytest.raises(OutputError, match='seed'):
        write_dataset(tmp_path, SMALL, 2, {'train': 1, 'val': 0, 'test': 0})


def test_label_lines_are_fractions_inside_the_picture(tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL, 4, {'train': 6, 'val': 0, 'test': 0})
    lines = [
        line for p in tmp_path.glob('train/labels/*.txt') for line in p.read_text().split('\n')
    ]
    rows = np.array([[float(v) for v in line.split()] for line in lines if line])
    assert len(rows) > 10
    assert set(rows[:, 0]) <= {0, 1, 2, 3, 4}
    for start, size in ((1, 3), (2, 4)):
        assert (rows[:, start] - rows[:, size] / 2 >= -1e-5).all()
        assert (rows[:, start] + rows[:, size] / 2 <= 1 + 1e-5).all()
    record = json.loads((tmp_path / 'simulate.json').read_text())
    assert record['seed'] == 4
    assert {**record['settings'], 'rig': asdict(SMALL.rig)} == asdict(SMALL)


def test_lens_canvas_covers_the_picture() -> None:
    for k1 in (-0.05, 0.05):
        camera = replace(load_camera(), distortion=(k1, 0.0, 0.0, 0.0, 0.0))
        lens = make_lens(camera)
        assert lens.maps is not None
        places = lens.maps[0].reshape(-1, 2)
        assert places.min() >= -1
        assert (places.max(0) <= (camera.width_px, camera.height_px)).all()


def test_lens_that_folds_the_picture_is_refused() -> None:
    camera = replace(load_camera(), distortion=(-0.3, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match='folds'):
        make_lens(camera)


def test_motion_blur_moves_nothing() -> None:
    spot = np.zeros((61, 61), np.float32)
    spot[30, 30] = 1
    blurred = cv2.filter2D(spot, -1, motion_kernel(9.0, 0.4))
    ys, xs = np.mgrid[:61, :61]
    assert (xs * blurred).sum() == pytest.approx(30, abs=1e-3)
    assert (ys * blurred).sum() == pytest.approx(30, abs=1e-3)


@pytest.mark.parametrize('name,value', [('min_visible', 2), ('width_px', 8), ('photo', -0.1)])
def test_setting_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f'{name}: {value} is refused'):
        SimulateSettings(**{name: value})


def test_command_renders_with_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / 'small.yaml'
    file.write_text('width_px: 640\nheight_px: 360\n')
    out = tmp_path / 'set'
    options = ['--train', '1', '--scale', '0.5', '--settings', str(file)]
    assert main(['simulate', 'dataset', '--out', str(out), *options]) == 0
    assert cv2.imread(str(out / 'train/images/train_000000.jpg')).shape == (180, 320, 3)


@pytest.mark.parametrize(
    'line,told', [('widht_px: 640', 'widht_px'), ('width_px: wide', "width_px: 'wide' is refused")]
)
def test_command_names_a_wrong_setting(tmp_path: Path, capsys: Any, line: str, told: str) -> None:
    (tmp_path / 'wrong.yaml').write_text(line)
    settings = ['--settings', str(tmp_path / 'wrong.yaml')]
    assert main(['simulate', 'dataset', '--out', str(tmp_path / 'set'), *settings]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / 'set').exists()


def read_bag(path: Path) -> dict[str, list[tuple[int, Any]]]:
    store = bag_types()
    messages: dict[str, list[tuple[int, Any]]] = {}
    with Reader(path) as reader:
        for connection, time_ns, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            messages.setdefault(connection.topic, []).append((time_ns, message))
    return messages


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def test_bag_returns_pictures_stamps_and_truth(tmp_path: Path) -> None:
    write_drive(tmp_path / 'bag', SMALL, seed=4, seconds=1.0, hz=5)
    frames = list(drive_frames(SMALL, 4, 1.0, 5))
    bag = read_bag(tmp_path / 'bag')
    truths = ('ground_truth', 'ground_truth_3d', 'ground_truth_3d_optical')
    assert set(bag) == {f'/camera/{name}' for name in ('image', 'camera_info', *truths)}
    assert sum(len(frame.labels) for frame in frames) > 0
    for topic in bag:
        assert [time for time, _ in bag[topic]] == [frame.stamp_ns for frame in frames]
    for k, frame in enumerate(frames):
        topics = ('image', 'camera_info', 'ground_truth')
        image, info, truth = messages = [bag[f'/camera/{topic}'][k][1] for topic in topics]
        for message in messages:
            assert stamp_ns(message) == frame.stamp_ns > 0
            assert message.header.frame_id == 'zed_left_camera_optical_frame'
        assert (image.encoding, image.step) == ('bgr8', 960)
        np.testing.assert_array_equal(image.data.reshape(180, 320, 3), frame.image)
        np.testing.assert_allclose(info.k.reshape(3, 3), frame.camera.matrix)
        cones = detections_of(truth, CLASS_NAMES)
        assert cones.class_id.tolist() == [label.class_id for label in frame.labels]
        assert (cones.score == 1).all()
        boxes = np.array([label.xyxy_px for label in frame.labels]).reshape(-1, 4)
        np.testing.assert_allclose(cones.xyxy_px, boxes, rtol=1e-6, atol=1e-6)
        assert [cone.id for cone in truth.detections] == [str(label.cone) for label in frame.labels]


def test_car_moves_smoothly_along_its_track() -> None:
    frames = list(drive_frames(SMALL, 1, 2.0, 10))
    places = np.array([frame.camera.position_m for frame in frames])
    steps = np.hypot(*np.diff(places[:, :2], axis=0).T)
    assert (steps > 0.3).all()
    assert (steps < 1.5).all()
    yaw = np.unwrap([frame.camera.yaw_rad for frame in frames])
    assert np.abs(np.diff(yaw)).max() < 0.35


def test_drive_is_the_same_every_time_and_another_seed_is_another_drive() -> None:
    first, again, other = (next(iter(drive_frames(SMALL, seed, 1, 1))) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.labels == again.labels
    assert first.stamp_ns != other.stamp_ns
    assert (first.image != other.image).any()


def test_stereo_eyes_share_stamps_and_see_a_parallax(tmp_path: Path) -> None:
    write_drive(tmp_path / 'bag', SMALL, 4, 1.0, 3, compressed=True, stereo=True)
    bag = read_bag(tmp_path / 'bag')
    left, right = bag['/camera/left/image/compressed'], bag['/camera/right/image/compressed']
    assert [stamp_ns(m) for _, m in left] == [stamp_ns(m) for _, m in right]
    assert {m.header.frame_id for _, m in right} == {'zed_right_camera_optical_frame'}
    assert left[0][1].format == 'jpeg'
    assert cv2.imdecode(left[0][1].data, cv2.IMREAD_COLOR).shape == (180, 320, 3)
    info = bag['/camera/right/camera_info'][0][1]
    assert info.p[3] == pytest.approx(-0.12 * info.k[0])
    frames = list(drive_frames(SMALL, 4, 1.0, 3, stereo=True))
    here, there = frames[0], frames[1]
    near = min(here.labels, key=lambda label: label.depth_m)
    twin = min(there.labels, key=lambda label: abs(label.depth_m - near.depth_m))
    shift = (near.xyxy_px[0] + near.xyxy_px[2] - twin.xyxy_px[0] - twin.xyxy_px[2]) / 2
    assert shift == pytest.approx(0.12 * here.camera.fx_px / near.depth_m, rel=0.25, abs=0.6)


def test_existing_bag_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'bag').mkdir()
    with pytest.raises(OutputError, match='exists'):
        write_drive(tmp_path / 'bag', SMALL, 0, 1, 1)
