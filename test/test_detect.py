"""`cone-perception detect` from pictures, videos and bags to results."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
from image_messages import read_video, write_video
from seeing_engine import SeeingEngine, seeing_card
from tiny_network import painted, write_tiny_bundle

from cone_perception import detect
from cone_perception.bags.reader import write_image_bag
from cone_perception.cli import main
from cone_perception.engines.open import open_engine
from cone_perception.filters import Filters
from cone_perception.model_card import read_bundle
from cone_perception.pictures.sources import Source
from cone_perception.pipeline import ConeDetector
from cone_perception.preprocess import band_views
from cone_perception.settings import DetectorSettings
from cone_perception.types import Frame
from cone_perception.views import Horizon, band_edges


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp('model'))


def picture():
    """One blue cone, one cell of the tiny network."""
    return painted(('blue_cone', 640, 168, 64, 64))


def frames(count=3):
    return [
        Frame(picture(), stamp_ns=10**9 + index * 66_666_667, frame_id='left')
        for index in range(count)
    ]


def read_lines(out):
    return [json.loads(line) for line in (out / 'detections.jsonl').read_text().splitlines()]


def read_summary(out):
    return json.loads((out / 'summary.json').read_text())


def run(source, out, model, *options):
    return main(['detect', str(source), '--model', str(model), '--out', str(out), *options])


def test_line_of_a_picture_has_the_documented_form(tmp_path, model):
    cv2.imwrite(str(tmp_path / 'a.png'), picture())
    assert run(tmp_path / 'a.png', tmp_path / 'out', model) == 0
    (line,) = read_lines(tmp_path / 'out')
    (cone,) = line.pop('detections')
    size_px = {'width_px': 1280, 'height_px': 720}
    assert line == {'source': 'a.png', 'stamp_ns': 0, 'band_px': None, **size_px}
    assert set(cone) == {'class', 'score', 'xyxy_px'}
    assert cone['class'] == 'blue_cone'
    assert 0.5 < cone['score'] <= 1
    assert cone['xyxy_px'] == pytest.approx([640, 168, 704, 232], abs=1)


def test_picture_without_cones_has_a_line_without_detections(tmp_path, model):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((720, 1280, 3), 114, np.uint8))
    assert run(tmp_path / 'a.png', tmp_path / 'out', model) == 0
    assert read_lines(tmp_path / 'out')[0]['detections'] == []


def test_folder_becomes_annotated_pictures_of_the_same_names(tmp_path, model):
    source = tmp_path / 'in'
    source.mkdir()
    for name in ('a.png', 'b.jpg'):
        cv2.imwrite(str(source / name), picture())
    assert run(source, tmp_path / 'out', model) == 0
    drawn = sorted((tmp_path / 'out' / 'pictures').iterdir())
    assert [file.name for file in drawn] == ['a.png', 'b.jpg']
    annotated = cv2.imread(str(drawn[0]))
    assert annotated.shape == (720, 1280, 3)
    assert (annotated != picture()).any()


def test_unreadable_picture_fails_the_run_by_name_but_not_the_others(tmp_path, model, capsys):
    source = tmp_path / 'in'
    source.mkdir()
    cv2.imwrite(str(source / 'a.png'), picture())
    (source / 'b.png').write_bytes(b'broken')
    cv2.imwrite(str(source / 'c.png'), picture())
    assert run(source, tmp_path / 'out', model) == 1
    assert [line['source'] for line in read_lines(tmp_path / 'out')] == ['a.png', 'c.png']
    summary = read_summary(tmp_path / 'out')
    assert (summary['pictures'], summary['answered'], summary['failed']) == (3, 2, 1)
    assert summary['failures'][0]['source'] == 'b.png'
    assert 'b.png' in capsys.readouterr().out


@pytest.mark.parametrize('compressed', [False, True])
def test_bag_becomes_lines_with_its_stamps_and_a_film(tmp_path, model, compressed):
    write_image_bag(tmp_path / 'bag', frames(), '/camera/image', compressed)
    assert run(tmp_path / 'bag', tmp_path / 'out', model) == 0
    lines = read_lines(tmp_path / 'out')
    assert [line['stamp_ns'] for line in lines] == [frame.stamp_ns for frame in frames()]
    assert {line['source'] for line in lines} == {'/camera/image'}
    assert [len(line['detections']) for line in lines] == [1, 1, 1]
    film = read_video(tmp_path / 'out' / 'detections.mp4')
    assert [bgr.shape for bgr in film] == [(720, 1280, 3)] * 3


def test_video_becomes_a_film_of_as_many_pictures(tmp_path, model):
    video = write_video(tmp_path / 'in.mp4', [picture()] * 4)
    assert run(video, tmp_path / 'out', model) == 0
    assert len(read_lines(tmp_path / 'out')) == 4
    assert len(read_video(tmp_path / 'out' / 'detections.mp4')) == 4


@pytest.mark.parametrize('size', [(1, 1), (721, 1281), (2, 40)])
def test_film_of_any_size_has_every_picture(tmp_path, size):
    film = [np.full((*size, 3), value, np.uint8) for value in (0, 120, 240)]
    film.append(np.full((100, 100, 3), 0, np.uint8))
    pictures = read_video(write_video(tmp_path / 'a.mp4', film, 15))
    assert len(pictures) == 4
    assert abs(int(pictures[2][0, 0, 0]) - 240) < 20


def test_thresholds_and_classes_are_honoured(tmp_path, model):
    pale = picture()
    pale[168:232, 640:704] = (200, 0, 0)
    cv2.imwrite(str(tmp_path / 'a.png'), pale)
    assert run(tmp_path / 'a.png', tmp_path / 'out', model) == 0
    assert len(read_lines(tmp_path / 'out')[0]['detections']) == 1
    for options in (['--thresholds', 'blue_cone:0.9'], ['--classes', 'yellow_cone']):
        assert run(tmp_path / 'a.png', tmp_path / 'out', model, *options) == 0
        assert read_lines(tmp_path / 'out')[0]['detections'] == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--classes', 'traffic_cone'], 'has no class traffic_cone'),
        (['--thresholds', 'blue_cone'], 'blue_cone:0.4'),
        (['--topic', '/image'], 'no topic /image'),
    ],
)
def test_wrong_option_is_refused_in_one_line(tmp_path, model, capsys, options, message):
    cv2.imwrite(str(tmp_path / 'a.png'), picture())
    assert run(tmp_path / 'a.png', tmp_path / 'out', model, *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error


def test_results_never_replace_their_source(tmp_path, model, capsys):
    source = tmp_path / 'pictures'
    source.mkdir()
    cv2.imwrite(str(source / 'a.png'), picture())
    assert run(source, tmp_path, model) == 1
    assert 'another --out' in capsys.readouterr().err
    assert (cv2.imread(str(source / 'a.png')) == picture()).all()


def test_out_that_cannot_be_written_is_one_line(tmp_path, model, capsys):
    cv2.imwrite(str(tmp_path / 'a.png'), picture())
    (tmp_path / 'out').write_text('a file')
    assert run(tmp_path / 'a.png', tmp_path / 'out', model) == 1
    assert 'cannot be written' in capsys.readouterr().err


def test_interrupt_leaves_what_was_done_valid(tmp_path, model):
    def interrupted():
        yield from frames(2)
        raise KeyboardInterrupt

    bundle = read_bundle(model)
    with ConeDetector(bundle.card, open_engine(bundle)) as detector:
        source = Source('bag', 100, 15.0, interrupted())
        with pytest.raises(KeyboardInterrupt):
            detect.detect_source(source, detector, DetectorSettings(), tmp_path / 'out')
    assert len(read_lines(tmp_path / 'out')) == 2
    assert len(read_video(tmp_path / 'out' / 'detections.mp4')) == 2
    summary = read_summary(tmp_path / 'out')
    assert (summary['answered'], summary['interrupted']) == (2, True)


def test_network_that_fails_on_a_picture_leaves_no_empty_line(tmp_path, model):
    bundle = read_bundle(model)
    real = open_engine(bundle)
    answers = iter([np.full((1, 240, 6), np.nan, np.float32), None])

    class Flaky:
        info, close = real.info, real.close

        def run(self, pictures):
            answer = next(answers)
            return real.run(pictures) if answer is None else answer

    with ConeDetector(bundle.card, Flaky()) as detector:
        source = Source('bag', 2, 15.0, iter(frames(2)))
        tally = detect.detect_source(source, detector, DetectorSettings(), tmp_path / 'out')
    assert (tally.answered, len(tally.failures)) == (1, 1)
    assert len(read_lines(tmp_path / 'out')) == 1


def test_second_look_at_stills_and_at_a_video_is_told(tmp_path, model, capsys):
    """A still's own cones say where the band lies, a video's what was seen before."""
    cv2.imwrite(str(tmp_path / 'a.png'), picture())
    video = write_video(tmp_path / 'in.mp4', [picture(), np.full_like(picture(), 114)])
    bands = []
    for source in (tmp_path / 'a.png', video):
        assert run(source, tmp_path / source.stem, model, '--views', 'whole+horizon') == 0
        told = capsys.readouterr().out
        assert 'pictures per view: 1 whole, 1 horizon' in told.replace('2 ', '1 ')
        assert read_summary(tmp_path / source.stem)['views'] == 'whole+horizon'
        bands += [line['band_px'] for line in read_lines(tmp_path / source.stem)]
    # Upper side of the only cone, a near one; then the same, although nothing is to be seen.
    assert bands == pytest.approx([168, 168, 168], abs=2)
    drawn = cv2.imread(str(tmp_path / 'a' / 'pictures' / 'a.png'))
    views = band_views('horizon', 720, 1280, (384, 640), bands[0])
    ((top, bottom),) = band_edges(views)
    assert (drawn[[top, bottom - 1]][:, [0, -1]] == 255).all()


def test_a_source_is_not_written_over_and_no_earlier_result_stays(tmp_path, model, capsys):
    place = tmp_path / 'out' / 'pictures'
    place.mkdir(parents=True)
    for name in 'ab':
        cv2.imwrite(str(place / f'{name}.png'), picture())
    before = (place / 'a.png').read_bytes()
    assert run(place / 'a.png', tmp_path / 'out', model) == 1
    assert (place / 'a.png').read_bytes() == before
    assert 'give another --out' in capsys.readouterr().err
    os.mkfifo(place / 'c.png')
    assert run(place, tmp_path / 'found', model) == 1  # the pipe, of which it waits for nothing
    assert run(place / 'a.png', tmp_path / 'found', model) == 0
    assert [each.name for each in (tmp_path / 'found' / 'pictures').iterdir()] == ['a.png']


def test_bands_of_a_film_do_not_depend_on_how_much_runs_at_once():
    film = [Frame(painted(('yellow_cone', 300, 300 + 9 * n, 9, 14))) for n in range(8)]
    rows_px = []
    for at_once in (1, 8):
        engine = SeeingEngine(at_once=at_once)
        source = Source('video', len(film), 15.0, iter(film))
        with ConeDetector(seeing_card('whole+horizon'), engine) as detector:
            found = [*detect.search(source, detector, Filters(), Horizon())]
        rows_px.append([cones.band_px for _, cones, _ in found])
    assert rows_px[0] == rows_px[1]
    assert rows_px[0] == pytest.approx([307, *(307 + 4.5 * n for n in range(7))], abs=2)


def test_portrait_picture_is_seen_in_tiles(tmp_path, model, capsys):
    cone = ('blue_cone', 315, 1100, 64, 64)
    cv2.imwrite(str(tmp_path / 'a.png'), painted(cone, height_px=1280, width_px=720))
    assert run(tmp_path / 'a.png', tmp_path / 'out', model, '--views', 'whole+horizon') == 0
    assert 'pictures per view: 1 whole, 1 tile, 1 horizon' in capsys.readouterr().out
    seen = read_summary(tmp_path / 'out')['pictures_per_view']
    assert seen == {'whole': 1, 'tile': 1, 'horizon': 1}
