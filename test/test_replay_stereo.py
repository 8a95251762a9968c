"""A rendered stereo drive through the replay: cones in metres, judged against where they stand."""

from __future__ import annotations

import numpy as np
import pytest
from browser import ReadPage

from cone_perception.cli import main
from cone_perception.replay.demo import RIG
from cone_perception.replay.figures.result import read_result
from cone_perception.types import RANGE_SOURCES
from training.simulate.bag import write_drive
from training.simulate.camera import load_camera
from training.simulate.scene import SimulateSettings

FRAMES = 8
MOUNT = ('--mount-height-m', RIG.mount_height_m, '--mount-pitch-deg', RIG.mount_pitch_deg)
USUAL = ('--device', 'cpu', '--precision', 'int8', '--views', 'whole', '--as-fast-as-possible')


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('stereo') / 'bag'
    write_drive(path, SimulateSettings(), 3, FRAMES / 5, 5.0, stereo=True)
    return path


def replayed(bag, out, *options):
    assert main(['replay', str(bag), '--out', str(out), *map(str, (*USUAL, *options))]) == 0
    return read_result(out)


def check_stereo(result):
    left, right = ([f for f in result.frames if f.camera == eye] for eye in ('left', 'right'))
    assert [frame.fate for frame in left] == ['answered'] * FRAMES
    assert [frame.fate for frame in right] == ['matched'] * FRAMES
    assert result.figures['frames_sent'].value == result.figures['frames_answered'].value == FRAMES
    for frame in left:
        assert len(frame.positions) == len(frame.found)
        assert frame.positions.frame_id == 'base_footprint'
    sources = np.concatenate([frame.positions.source for frame in left])
    assert (sources == RANGE_SOURCES.index('stereo')).mean() > 0.7
    value = {name: figure.value for name, figure in result.figures.items()}
    assert value['position_share'] > 0.9
    assert value['depth_median_m 5 m'] < 0.1
    assert value['depth_median_m 10 m'] < 0.2
    assert value['across_p90_m 10 m'] < 0.2
    return left


@pytest.mark.ros
def test_node_places_what_the_pipeline_places(bag, tmp_path):
    node = check_stereo(
        replayed(bag, tmp_path / 'ros', '--no-overhead', '--in-flight', 1, '--stereo', *MOUNT)
    )
    piped = check_stereo(
        replayed(bag, tmp_path / 'piped', '--through', 'pipeline', '--stereo', *MOUNT)
    )
    for ours, theirs in zip(node, piped, strict=True):
        assert ours.positions.source.tolist() == theirs.positions.source.tolist()
        np.testing.assert_allclose(ours.positions.xyz_m, theirs.positions.xyz_m, atol=0.02)
    page = ReadPage((tmp_path / 'ros' / 'report.html').read_text())
    assert {'Positions', 'Seen from above', 'The same frame'} <= set(page.titles())
    assert f'{FRAMES} of {FRAMES} frames of the right eye were matched' in page.text


def test_one_eye_places_by_the_height_of_boxes_and_by_the_ground(bag, tmp_path):
    options = ('--through', 'pipeline', '--topic', '/camera/left/image', *MOUNT)
    result = replayed(bag, tmp_path / 'out', *options)
    assert result.figures['by_stereo_share'].value == 0
    assert result.figures['position_share'].value > 0.9
    assert result.figures['depth_median_m 5 m'].value < 0.6


def test_positions_without_a_mounting_are_not_judged_and_say_so(bag, tmp_path):
    result = replayed(bag, tmp_path / 'out', '--through', 'pipeline', '--stereo')
    assert result.frames[0].positions.frame_id == 'zed_left_camera_optical_frame'
    assert 'position_share' not in result.figures
    assert any('are not judged' in problem for problem in result.problems)


def test_stereo_of_one_camera_is_refused(bag, tmp_path, capsys):
    options = ['--through', 'pipeline', '--stereo', '--topic', '/camera/left/image']
    assert main(['replay', str(bag), '--out', str(tmp_path / 'out'), *options]) == 1
    assert 'Name the topics of the left and of the right eye' in capsys.readouterr().err


def test_rig_of_the_demo_is_that_of_the_simulator():
    camera = load_camera()
    assert RIG.mount_height_m == camera.position_m[2]
    assert np.radians(RIG.mount_pitch_deg) == pytest.approx(camera.pitch_rad)
