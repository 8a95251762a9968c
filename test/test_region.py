"""The region proposed for a drive: from moving pictures with a car to settings that are read."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
from image_messages import write_video
from tiny_network import paint, write_tiny_bundle

from cone_perception.bags.reader import write_image_bag
from cone_perception.cli import main
from cone_perception.filters import Filters
from cone_perception.pictures.sources import PICTURE_SUFFIXES
from cone_perception.region.own_car import StayingEdges, find_car, find_places, region_without
from cone_perception.settings import DetectorSettings, read_params_file
from cone_perception.types import Frame

SWITCH = (640, 616)
"""Left and top of a cell of the tiny network, on the car."""
CAR = (slice(500, 720), slice(420, 900))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp('model'))


def texture(seed, height, width):
    """(H, W, 3) uint8: grey tiles that the tiny network takes for nothing."""
    tiles = np.random.default_rng(seed).integers(84, 144, (-(-height // 16), -(-width // 16), 1))
    grey = tiles.astype(np.uint8).repeat(16, 0).repeat(16, 1)[:height, :width]
    return grey.repeat(3, 2)


ROAD, TUB = texture(1, 720, 3000), texture(2, 220, 480)


def drive(count=20, step_px=48, car=True, switch=range(10**6), cones=True):
    """Pictures of a road that passes by, with a blue cone each, seen from a car with a switch."""
    pictures = []
    for index in range(count):
        picture = ROAD[:, step_px * index : step_px * index + 1280].copy()
        if cones:
            paint(picture, 'blue_cone', 64 * (index * 7 % 20), 64 * (3 + index % 3) - 24, 64, 64)
        if car:
            picture[CAR] = TUB
            if index in switch:
                paint(picture, 'orange_cone', *SWITCH, 64, 64)
        pictures.append(picture)
    return pictures


def write_folder(folder, pictures):
    folder.mkdir(exist_ok=True)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f'{index:04d}.bmp'), picture)
    return folder


def run(source, out, model, *options):
    return main(['region', str(source), '--model', str(model), '--out', str(out), *options])


def read_summary(out):
    return json.loads((out / 'summary.json').read_text())


def stands_in(region, x_px, y_px):
    box = np.array([[x_px - 5, y_px - 20, x_px + 5, y_px]], np.float32)
    return bool(Filters(region=tuple(region)).inside(box, 1280, 720)[0])


def test_drive_becomes_settings_that_leave_out_the_car_and_nothing_else(tmp_path, model, capsys):
    source = write_folder(tmp_path / 'drive', drive(switch=range(0, 20, 2)))
    assert run(source, tmp_path / 'out', model) == 0
    summary = read_summary(tmp_path / 'out')
    assert summary['boxes'] == {'blue_cone': 20, 'orange_cone': 10}
    assert summary['left_out'] == {'orange_cone': 10}
    assert summary['left_out_not_stationary'] == []
    assert (summary['pictures'], summary['moved'], summary['model']) == (20, 20, 'tiny')
    (place,) = summary['places']
    assert place['xyxy_px'] == pytest.approx([640, 616, 704, 680], abs=1)
    assert place['share'] == 0.5
    values = read_params_file(tmp_path / 'out' / 'region.yaml')
    assert list(values) == ['region']
    region = DetectorSettings.from_mapping(values).region
    assert list(region) == summary['region']
    assert len(region) <= 2 * 12
    assert not stands_in(region, 672, 680)
    for x_px, y_px in ((672, 480), (380, 719), (940, 719), (1, 1), (1279, 719), (1, 719)):
        assert stands_in(region, x_px, y_px), (x_px, y_px)
    printed = capsys.readouterr().out
    assert 'boxes left out: 10 of 30 (10 orange_cone), 0 of them not at these places' in printed
    numbers = re.search(r'--region ([\d. ]+)', printed).group(1).split()
    assert [float(number) for number in numbers] == list(region)
    found = tmp_path / 'found'
    options = ['--model', str(model), '--out', str(found), '--region', *numbers]
    assert main(['detect', str(source), *options]) == 0
    assert read_summary(found)['cones'] == {'blue_cone': 20}


def test_picture_shows_region_places_and_feet(tmp_path, model):
    assert run(write_folder(tmp_path / 'drive', drive()), tmp_path / 'out', model) == 0
    drawn = cv2.imread(str(tmp_path / 'out' / 'region.png'))
    shown = max(range(20), key=lambda index: (drive()[index] == drawn).mean())
    assert tuple(drawn[640, 640]) == (0, 0, 255)
    assert tuple(drawn[232, 32]) == (255, 144, 30), 'the first cone stands there'
    assert (drawn[560:600, 700:760] == drive()[shown][560:600, 700:760] // 2).all()
    assert (drawn[600:700, 1000:1200] == drive()[shown][600:700, 1000:1200]).all()


@pytest.mark.parametrize('kind', ['video', 'bag'])
def test_video_and_bag_are_taken_too(tmp_path, model, kind):
    if kind == 'video':
        source = write_video(tmp_path / 'drive.mp4', drive())
    else:
        frames = [Frame(bgr, 10**9 + 10**8 * index) for index, bgr in enumerate(drive())]
        source = tmp_path / 'drive'
        write_image_bag(source, frames, '/camera/image', False)
    assert run(source, tmp_path / 'out', model) == 0
    assert read_summary(tmp_path / 'out')['left_out'] == {'orange_cone': 20}


@pytest.mark.parametrize(
    ('pictures', 'message'),
    [
        (drive(9), '9 pictures are too few'),
        (drive(step_px=0, cones=False), 'hardly moves (1 of 20 pictures differ'),
        (drive(cones=False, car=False), 'found nothing in 20 pictures'),
        ([*drive(12), drive(1)[0][:700]], 'pictures of 1280x720 and of 1280x700'),
    ],
    ids=['few', 'parked', 'no boxes', 'two sizes'],
)
def test_source_that_shows_no_drive_is_refused_in_one_line(
    tmp_path, model, capsys, pictures, message
):
    source = write_folder(tmp_path / 'drive', pictures)
    assert run(source, tmp_path / 'out', model) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'cone-perception' in line]
    assert message in line
    assert not (tmp_path / 'out').exists()


def test_parked_car_is_known_by_its_picture_though_something_passes_by(tmp_path, model, capsys):
    pictures = drive(step_px=0, cones=False)
    for index, picture in enumerate(pictures):
        picture[300:420, 60 * index : 60 * index + 200] = 20
    assert run(write_folder(tmp_path / 'drive', pictures), tmp_path / 'out', model) == 1
    assert 'a parked car' in capsys.readouterr().err


@pytest.mark.parametrize(
    'words', [{'car': False}, {'switch': ()}, {'switch': (3, 11)}], ids=['road', 'clean', 'flicker']
)
def test_drive_with_nothing_stationary_needs_no_region(tmp_path, model, capsys, words):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'region.yaml').write_text('of an earlier run')
    source = write_folder(tmp_path / 'drive', drive(30, **words))
    assert run(source, tmp_path / 'out', model) == 0
    assert 'nothing stationary was found on the car: no region' in capsys.readouterr().out
    assert read_summary(tmp_path / 'out')['region'] == []
    files = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert files == ['region.png', 'summary.json']


def test_pictures_before_the_start_do_not_make_cones_stationary(tmp_path, model):
    standing, driving = drive(1)[0], drive(20)
    paint(standing, 'yellow_cone', 64, 616, 64, 64)
    source = write_folder(tmp_path / 'drive', [standing] * 20 + driving)
    assert run(source, tmp_path / 'out', model) == 0
    summary = read_summary(tmp_path / 'out')
    assert summary['boxes']['yellow_cone'] == 20
    assert summary['left_out'] == {'orange_cone': 40}
    (place,) = summary['places']
    assert place['share'] == 1.0, 'of the pictures that moved on'


def test_unreadable_picture_fails_the_run_but_not_the_region(tmp_path, model, capsys):
    source = write_folder(tmp_path / 'drive', drive())
    (source / '0005.bmp').write_bytes(b'broken')
    assert run(source, tmp_path / 'out', model) == 1
    assert read_summary(tmp_path / 'out')['failures'][0]['source'] == '0005.bmp'
    assert (tmp_path / 'out' / 'region.yaml').is_file()
    assert 'failed: 0005.bmp' in capsys.readouterr().err


def test_results_never_lie_among_the_pictures(tmp_path, model, capsys):
    source = write_folder(tmp_path / 'drive', drive(2))
    assert run(source, source, model) == 1
    assert 'another --out' in capsys.readouterr().err
    assert {path.suffix for path in source.iterdir()} <= set(PICTURE_SUFFIXES)


def boxes_at(*feet):
    """(N, 4) float32: boxes of 20x40 that stand there."""
    return np.array([[x - 10, y - 40, x + 10, y] for x, y in feet], np.float32)


def test_edges_stay_on_the_car_only():
    edges = StayingEdges()
    assert all(edges.add(bgr) for bgr in drive(20, switch=()))
    staying = edges.staying()
    assert staying.shape == (90, 160)
    assert staying[66:88, 56:108].all()
    staying[58:, 48:117] = False
    assert staying.mean() < 0.02


def test_places_are_where_boxes_come_again_though_they_tremble():
    tremble = np.random.default_rng(0).uniform(-2, 2, (40, 2))
    again = boxes_at(*(np.array([300, 600]) + tremble))
    passing = boxes_at(*((20 + 30 * index, 500) for index in range(40)))
    pictures = np.arange(40)
    (place,) = find_places(
        np.concatenate([again, passing]), np.concatenate([pictures, pictures]), 40
    )
    assert place.xyxy_px == pytest.approx([290, 560, 310, 600], abs=1)
    assert place.share == 1.0
    assert find_places(again, np.zeros(40, np.int64), 40) == [], 'all in one picture'


def test_part_where_cones_pass_is_not_the_car():
    """A car's own shadow stays at its place, too, but cones stand on it."""
    staying = np.zeros((90, 160), bool)
    staying[60:, 40:120] = True
    switch, pictures = boxes_at(*([(640, 700)] * 20)), np.arange(20)
    car, places = find_car(staying, switch, pictures, 20, (1280, 720))
    assert len(places) == 1
    assert car[88, 80]
    assert not car[:60].any()
    passing = boxes_at(*((400 + 24 * index, 560 + 5 * index) for index in range(20)))
    both = np.concatenate([switch, passing]), np.concatenate([pictures, pictures])
    car, places = find_car(staying, *both, 20, (1280, 720))
    assert places == []
    assert not car.any()


@pytest.mark.parametrize('rows', [slice(0, 90), slice(30, 60)], ids=['pillar', 'sign'])
def test_car_reaches_the_lower_edge_and_not_the_upper(rows):
    staying = np.zeros((90, 160), bool)
    staying[rows, 70:90] = True
    boxes = boxes_at(*([(640, 400)] * 20))
    assert find_car(staying, boxes, np.arange(20), 20, (1280, 720))[1] == []


@pytest.mark.parametrize(
    'notches',
    [[], [(50, 40, 110)], [(60, 0, 30)], [(60, 100, 160)], [(70, 10, 40), (50, 90, 150)]],
    ids=['none', 'middle', 'left', 'right', 'two'],
)
def test_region_is_all_but_the_car(notches):
    car = np.zeros((90, 160), bool)
    for top, left, right in notches:
        car[top:, left:right] = True
    region = region_without(car)
    assert len(region) // 2 <= 4 + 4 * len(notches)
    filters = Filters(region=region)  # refuses what is no polygon
    rows, columns = np.mgrid[2:90:4, 2:160:4].reshape(2, -1)
    feet = np.stack([columns, rows], axis=1) / (159, 89)
    inside = filters.inside(np.concatenate([feet, feet], axis=1).astype(np.float32), 1, 1)
    near = cv2.dilate(car.astype(np.uint8), np.ones((5, 5)))[rows, columns] > 0
    deep = cv2.erode(car.astype(np.uint8), np.ones((5, 5)))[rows, columns] > 0
    assert inside[~near].all()
    assert not inside[deep].any()


def test_wheel_of_the_recorded_clip_is_left_out_and_no_cone(shared_data, tmp_path):
    source = shared_data / 'clips' / 'onboard_720p_15fps'
    assert main(['region', str(source), '--out', str(tmp_path / 'out'), '--device', 'cpu']) == 0
    summary = read_summary(tmp_path / 'out')
    boxes, left_out = summary['boxes'], summary['left_out']
    assert boxes['orange_cone'] - left_out['orange_cone'] <= 5  # false ones
    assert sum(left_out.values()) >= 10
    assert set(left_out) <= {'orange_cone', 'large_orange_cone'}
