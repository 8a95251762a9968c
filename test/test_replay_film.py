"""The film of a replay: every frame that was sent, lost ones with a red border."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_messages import read_video
from replay_results import MS, cones, result, trace, write_bag

from cone_perception.errors import SourceError
from cone_perception.pictures.sources import open_source
from cone_perception.replay.pages import pictures
from cone_perception.replay.pages.charts import describe
from cone_perception.replay.pages.pictures import read_pictures, tile, write_film

SHAPE = (240, 320)
BOX = (200.0, 120.0, 240.0, 200.0)


def filmed(path: Path, *shown: Any) -> tuple[list[np.ndarray], float]:
    """Pictures and rate of the film that is written of this."""
    write_film(path, *shown)
    return [bgr.astype(int) for bgr in read_video(path)], open_source(path).rate_hz


def is_red_around(picture: np.ndarray) -> bool:
    """Left, lower and right edge; the caption may hide the upper one."""
    edges = [picture[60:, :2], picture[-2:], picture[60:, -2:]]
    return all(edge[..., 2].mean() > edge[..., 0].mean() + 80 for edge in edges)


def grey(picture: np.ndarray, left: int = 60, top: int = 100) -> float:
    return float(picture[top : top + 20, left : left + 20].mean())


@pytest.fixture
def drive(tmp_path):
    return write_bag(tmp_path / 'bag', {'left': 6}, SHAPE)


def test_every_frame_is_shown_and_lost_ones_have_a_red_border(drive, tmp_path):
    fates = ('answered', 'dropped', 'failed', 'answered', 'transport', 'return')
    frames = [trace(index, fate) for index, fate in enumerate(fates)]
    pictures, rate_hz = filmed(tmp_path / 'film.mp4', result([frames]), drive)
    assert [is_red_around(picture) for picture in pictures] == [f != 'answered' for f in fates]
    assert [grey(picture) for picture in pictures] == pytest.approx(range(40, 100, 10), abs=4.5)
    assert rate_hz == pytest.approx(20, abs=0.1)
    assert pictures[0].shape == (*SHAPE, 3)


@pytest.mark.parametrize(
    ('fate', 'told'),
    [
        ('answered', 'left 3  1700000000.150 s  29 ms  1 cones'),
        ('dropped', 'left 3  1700000000.150 s  dropped for a newer one'),
        ('transport', 'left 3  1700000000.150 s  lost on the way to the node'),
    ],
)
def test_caption_tells_stamp_latency_and_fate(fate, told):
    assert describe(trace(3, fate)) == told


def test_cones_found_are_drawn(drive, tmp_path):
    frames = [trace(0, found=cones()), trace(1, found=cones(BOX))]
    (without, with_box), _ = filmed(tmp_path / 'film.mp4', result([frames]), drive)
    edge = (slice(130, 190), slice(198, 203))
    assert (with_box[edge][..., 0] - with_box[edge][..., 2]).max() > 60
    assert (without[edge][..., 0] - without[edge][..., 2]).max() < 20


def test_truth_is_drawn_as_dashes(drive, tmp_path):
    frame = trace(0, found=cones())
    truth = {('left', frame.stamp_ns): cones(BOX, class_id=4)}
    (picture,), _ = filmed(tmp_path / 'film.mp4', result([[frame]], truth=truth), drive)
    edge = picture[130:190, 196:202]
    assert (edge[..., 2] - edge[..., 0]).max() > 40


def test_frames_that_were_not_sent_any_more_are_not_shown(drive, tmp_path):
    shown = result([[trace(0), trace(1)]], interrupted=True)
    assert len(filmed(tmp_path / 'film.mp4', shown, drive)[0]) == 2


def test_cameras_are_side_by_side_and_one_that_stops_gets_dark(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 6, 'right': 3}, SHAPE)
    frames = sorted(
        [trace(i, camera=c) for c, n in (('left', 6), ('right', 3)) for i in range(n)],
        key=lambda frame: frame.sent_ns,
    )
    pictures, rate_hz = filmed(tmp_path / 'film.mp4', result([frames]), bag)
    assert len(pictures) == 6
    assert pictures[0].shape == (SHAPE[0], 2 * SHAPE[1], 3)
    assert rate_hz == pytest.approx(20, abs=0.1)
    left = [grey(picture) for picture in pictures]
    right = [grey(picture, 60 + SHAPE[1]) for picture in pictures]
    assert left == pytest.approx(range(40, 100, 10), abs=4.5)
    assert right == pytest.approx([40, 50, 60, 15, 15, 15], abs=4.5)


def test_camera_that_starts_late_is_black_until_then(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 3, 'right': 3}, SHAPE)
    frames = [*(trace(i, camera='left') for i in range(3)), trace(2, camera='right')]
    pictures, _ = filmed(tmp_path / 'film.mp4', result([frames]), bag)
    assert [grey(picture, 60 + SHAPE[1]) for picture in pictures] == pytest.approx(
        [0, 0, 60], abs=4.5
    )


def test_pictures_of_another_size_keep_their_proportions():
    small, large = np.full((50, 100, 3), 200, np.uint8), np.full((300, 300, 3), 100, np.uint8)
    whole = tile([small, large], 2, (50, 100))
    assert whole.shape == (50, 200, 3)
    assert (whole[:, 100:150] == 100).all()
    assert (whole[:, 150:] == 0).all()


def test_four_cameras_are_two_by_two(tmp_path):
    bag = write_bag(tmp_path / 'bag', dict.fromkeys('abcd', 1), SHAPE)
    cameras = [{'name': name, 'topic': f'/camera/{name}/image_raw'} for name in 'abcd']
    frames = [trace(0, camera=name) for name in 'abd']
    shown = result([frames], bag={'cameras': cameras})
    (three,), _ = filmed(tmp_path / 'three.mp4', shown, bag)
    assert three.shape == (2 * SHAPE[0], 2 * SHAPE[1], 3)
    assert grey(three, 60, 100 + SHAPE[0]) == pytest.approx(40, abs=4.5)
    assert grey(three, 60 + SHAPE[1], 100 + SHAPE[0]) == pytest.approx(0, abs=4.5)
    whole = tile([None, None, None, np.full((10, 20, 3), 9, np.uint8)], 2, (10, 20))
    assert whole.shape == (20, 40, 3)
    assert (whole[10:, 20:] == 9).all()
    assert (whole[:10] == 0).all()


def test_large_pictures_are_scaled_down(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 1}, (1080, 1920))
    assert filmed(tmp_path / 'film.mp4', result([[trace(0)]]), bag)[0][0].shape == (720, 1280, 3)


def test_picture_that_cannot_be_decoded_is_dark_with_a_red_border(drive, tmp_path):
    data = next(drive.glob('*.mcap'))
    content = data.read_bytes()
    second = content.index(b'bgr8', content.index(b'bgr8') + 1)
    data.write_bytes(content[:second] + b'what' + content[second + 4 :])
    frames = [trace(0), trace(1, 'failed'), trace(2)]
    pictures, _ = filmed(tmp_path / 'film.mp4', result([frames]), drive)
    assert [is_red_around(picture) for picture in pictures] == [False, True, False]
    assert grey(pictures[1]) < 30


def test_second_pass_can_be_filmed(drive, tmp_path):
    passes = [[trace(0), trace(1)], [trace(0, 'dropped', start_ns=10**12)]]
    pictures, _ = filmed(tmp_path / 'film.mp4', result(passes), drive, 1)
    assert [is_red_around(picture) for picture in pictures] == [True]


@pytest.mark.parametrize('passes', [[], [[]]])
def test_nothing_that_was_sent_makes_no_film(drive, tmp_path, passes):
    with pytest.raises(SourceError, match='pass 1 has no frame'):
        write_film(tmp_path / 'film.mp4', result(passes), drive)
    assert not (tmp_path / 'film.mp4').exists()


def test_bag_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(SourceError, match='gone'):
        write_film(tmp_path / 'film.mp4', result([[trace(0)]]), tmp_path / 'gone')


def test_film_runs_as_the_drive_did_however_fast_it_was_replayed():
    fast = [replace(trace(i), sent_ns=10**9 + i * MS) for i in range(5)]
    assert pictures._rate_hz(fast) == pytest.approx(20)
    without_stamps = [replace(frame, stamp_ns=0) for frame in fast]
    assert pictures._rate_hz(without_stamps) == pictures.DEFAULT_RATE_HZ


def test_pictures_are_written_while_others_are_still_read(tmp_path, monkeypatch):
    bag = write_bag(tmp_path / 'bag', {'left': 30, 'right': 30}, SHAPE)
    read: list[str] = []
    written: list[int] = []
    drawn = pictures._drawn

    def counted(*args):
        for camera, picture in drawn(*args):
            read.append(camera)
            yield camera, picture

    class Counter(pictures.Film):
        def add(self, bgr):
            written.append(len(read))
            super().add(bgr)

    monkeypatch.setattr(pictures, '_drawn', counted)
    monkeypatch.setattr(pictures, 'Film', Counter)
    frames = [trace(i, camera=c) for i in range(30) for c in ('left', 'right')]
    write_film(tmp_path / 'film.mp4', result([frames]), bag)
    assert written == [*range(3, 60, 2), 60]


def test_pictures_are_read_by_their_place_also_without_stamps(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 6, 'right': 6}, SHAPE)
    topics = {name: f'/camera/{name}/image_raw' for name in ('left', 'right')}
    problems: list[str] = []
    wanted = [('left', 4), ('right', 2)]
    found = dict(read_pictures(bag, topics, wanted, problems))
    assert {place: int(picture[0, 0, 0]) for place, picture in found.items()} == {
        ('left', 4): 80,
        ('right', 2): 60,
    }
    assert problems == []


def test_bag_is_not_read_beyond_the_last_picture_that_is_wanted(tmp_path, monkeypatch):
    bag = write_bag(tmp_path / 'bag', {'left': 20}, SHAPE)
    read = []
    whole = pictures.read_messages

    def counted(*args, **options):
        for message in whole(*args, **options):
            read.append(message)
            yield message

    monkeypatch.setattr(pictures, 'read_messages', counted)
    topics = {'left': '/camera/left/image_raw'}
    assert len(list(read_pictures(bag, topics, [('left', 2)], []))) == 1
    assert len(read) == 3


def test_bag_cut_off_is_filmed_up_to_the_cut(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 20}, (480, 640))
    data = next(bag.glob('*.mcap'))
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    frames = [trace(index) for index in range(8)]
    assert 0 < len(filmed(tmp_path / 'film.mp4', result([frames]), data)[0]) <= 8
