"""From messages to answers: what goes into a run, what a failure costs, counts and rates."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from image_messages import encode
from seeing_engine import SeeingEngine, seeing_card
from test_replay_pipeline import CARD, Clock, SlowEngine
from tiny_network import BGR_OF_CLASS, painted, write_tiny_bundle

from cone_perception.answering.answer import Answer, Answering
from cone_perception.answering.health import Health
from cone_perception.answering.inbox import Arrival, NewestFrames, StereoPairs
from cone_perception.answering.ration import ROUNDS, affordable, ration_views
from cone_perception.engines.open import open_engine
from cone_perception.errors import EngineError, EngineLostError
from cone_perception.filters import Filters
from cone_perception.model_card import read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.settings import DetectorSettings
from cone_perception.types import Frame, Positions
from cone_perception.views import Horizon

CAMERAS = ('left', 'right')


def arrival(topic, width=64, encoding='bgr8', grey=114):
    message = encode(np.full((48, width, 3), grey, np.uint8), 'bgr8')
    message.encoding = encoding
    return Arrival(topic, 0, message)


def answering(batch=1, side_by_side=False, fail=None, views='auto', cameras=CAMERAS):
    detector = ConeDetector(CARD, SlowEngine(Clock(), batch=batch, fail=fail), views)
    return Answering(detector, {camera: Horizon(0.5) for camera in cameras}, side_by_side)


def positions(n, counts):
    xyz_m, source = np.arange(3.0 * n).reshape(n, 3), np.ones(n, np.int64)
    return Positions(xyz_m, np.zeros((n, 3, 3)), source, 'base_footprint', counts)


class ScriptedLocator:
    """Places every cone, or raises; keeps what it was given."""

    def __init__(self, fail=None):
        self.fail, self.asked = fail, []

    def locate(self, found, picture, partner=None, eye=0):
        self.asked.append((picture, partner, eye))
        if self.fail:
            raise self.fail
        return positions(len(found), {'stereo': len(found)})


def stereo(locator=None, **more):
    """A stereo rig whose left eye is the first camera."""
    walk = answering(**more)
    locators = dict.fromkeys(CAMERAS, locator) if locator else {}
    return replace(walk, stereo=True, locators=locators)


def outcomes(found):
    """Camera and outcome of each answer, batch by batch."""
    return [[(answer.camera, answer.outcome) for answer in batch] for batch in found]


def test_engine_for_two_answers_both_cameras_in_one_run():
    walk = answering(batch=2)
    assert isinstance(walk.make_inbox(2.0), StereoPairs)
    (pair,) = walk.answer([arrival(0), arrival(1)], Filters())
    assert outcomes([pair]) == [[('left', 'answered'), ('right', 'answered')]]
    assert not any(answer.alone for answer in pair)


@pytest.mark.parametrize(
    'batch, views, runs',
    [(1, 'whole', 2), (2, 'whole', 1), (2, 'whole+horizon', 2), (4, 'whole+horizon', 1),
     (4, 'whole+horizon+strip', 2)],
)  # fmt: skip
def test_cameras_are_paired_where_one_run_takes_all_their_views(batch, views, runs):
    walk = answering(batch, views=views)
    assert isinstance(walk.make_inbox(2.0), StereoPairs if runs == 1 else NewestFrames)
    found = list(walk.answer([arrival(0), arrival(1)], Filters()))
    assert len(found) == walk.detector.engine.runs == runs
    assert [answer.outcome for batch in found for answer in batch] == ['answered'] * 2


def test_lone_camera_fills_a_run_with_its_views_and_lacks_no_partner():
    walk = answering(4, views='whole+horizon', cameras=CAMERAS[:1])
    assert isinstance(walk.make_inbox(2.0), NewestFrames)
    ((answer,),) = walk.answer([arrival(0)], Filters())
    assert (answer.outcome, answer.alone, walk.detector.engine.runs) == ('answered', False, 1)


def test_picture_whose_partner_cannot_be_decoded_is_answered_alone():
    arrivals = [arrival(0, encoding='nv99'), arrival(1)]
    failed, answered = answering(batch=2).answer(arrivals, Filters())
    assert outcomes([failed, answered]) == [[('left', 'failed')], [('right', 'answered')]]
    assert "'nv99'" in failed[0].reason
    assert (failed[0].alone, answered[0].alone) == (False, True)


def test_halves_of_one_picture_go_to_their_cameras():
    walk = answering(side_by_side=True)
    assert isinstance(walk.make_inbox(2.0), NewestFrames)
    (left,), (right,) = walk.answer([arrival(0)], Filters())
    assert (left.camera, right.camera) == CAMERAS
    assert left.picture.width_px == right.picture.width_px == 32
    (failed,) = walk.answer([arrival(0, width=1)], Filters())
    assert outcomes([failed]) == [[('left', 'failed'), ('right', 'failed')]]


@pytest.mark.parametrize('batch, views', [(1, 'whole'), (2, 'whole'), (2, 'whole+horizon')])
def test_left_eye_is_searched_and_the_right_one_only_matched(batch, views):
    locator = ScriptedLocator()
    walk = stereo(locator, batch=batch, views=views)
    assert isinstance(walk.make_inbox(2.0), StereoPairs)
    (answers,) = walk.answer([arrival(0, width=64), arrival(1, width=32)], Filters())
    assert outcomes([answers]) == [[('left', 'answered'), ('right', 'matched')]]
    assert walk.detector.engine.runs == 1
    left, right = answers
    ((picture, partner, eye),) = locator.asked
    assert (picture is left.picture, partner.width_px, eye) == (True, 32, 0)
    assert len(left.positions) == len(left.found)
    assert (right.found, right.positions, left.alone, right.alone) == (None, None, False, False)
    assert list(right.moments_ns) == ['received_ns', 'started_ns']


@pytest.mark.parametrize('placed', [CAMERAS, CAMERAS[:1], ()], ids=['both', 'left', 'none'])
@pytest.mark.parametrize('dark', [0, 1])
def test_eye_that_is_not_dark_is_searched_and_the_other_one_told(dark, placed):
    """Else a dark left picture would tell of an empty track; whatever is known of the eyes."""
    locator = ScriptedLocator()
    walk = replace(stereo(), locators=dict.fromkeys(placed, locator))
    health = Health(CAMERAS, 0.0)
    pair = [arrival(topic, grey=3 if topic == dark else 114) for topic in (0, 1)]
    (answers,) = walk.answer(pair, Filters())
    for each in answers:
        health.ended(published(each), 1.0)
    lit, other = CAMERAS[1 - dark], CAMERAS[dark]
    assert outcomes([answers]) == [[(lit, 'answered'), (other, 'matched')]]
    wanted = [(None, 1 - dark)] if lit in placed else []
    assert [asked[1:] for asked in locator.asked] == wanted
    report = health.report(1.0)[other]
    assert report.counts == {'matched': 1, 'dark': 1}
    told = 'this eye is dark (grey level 3, the other eye 114)'
    assert report.last['dark'].startswith(told)


@pytest.mark.parametrize('levels', [(3, 11), (13, 114), (3, 3), (114, 114)])
def test_two_dark_eyes_and_a_dim_one_are_a_pair_as_any_other(levels):
    locator = ScriptedLocator()
    pair = [arrival(topic, grey=level) for topic, level in enumerate(levels)]
    (answers,) = stereo(locator).answer(pair, Filters())
    assert outcomes([answers]) == [[('left', 'answered'), ('right', 'matched')]]
    assert answers[1].reason == ''
    assert locator.asked[0][1] is not None


def test_matched_eye_has_its_rate_and_size():
    health = Health(CAMERAS, 0.0)
    for second in range(1, 6):
        (answers,) = stereo(ScriptedLocator()).answer([arrival(0), arrival(1)], Filters())
        for each in answers:
            health.ended(published(each), float(second))
    report = health.report(5.0)['right']
    assert (report.rate_out_hz, report.size_px) == (1.0, (64, 48))
    assert report.latency_ms == {}


@pytest.mark.parametrize('topic', [0, 1])
def test_lone_eye_is_searched_and_placed_by_itself(topic):
    locator = ScriptedLocator()
    ((answer,),) = stereo(locator).answer([arrival(topic)], Filters())
    assert (answer.camera, answer.outcome, answer.alone) == (CAMERAS[topic], 'answered', True)
    ((picture, partner, eye),) = locator.asked
    assert (picture is answer.picture, partner, eye) == (True, None, topic)
    assert answer.positions.frame_id == 'base_footprint'


def test_halves_of_one_picture_are_a_pair():
    locator = ScriptedLocator()
    walk = stereo(locator, side_by_side=True)
    assert isinstance(walk.make_inbox(2.0), NewestFrames)
    (answers,) = walk.answer([arrival(0)], Filters())
    assert outcomes([answers]) == [[('left', 'answered'), ('right', 'matched')]]
    ((_, partner, _),) = locator.asked
    assert partner.width_px == 32


@pytest.mark.parametrize('damaged', [0, 1])
def test_eye_is_searched_alone_where_the_other_cannot_be_decoded(damaged):
    locator = ScriptedLocator()
    pair = [arrival(topic, encoding='nv99' if topic == damaged else 'bgr8') for topic in (0, 1)]
    failed, answered = stereo(locator).answer(pair, Filters())
    assert outcomes([failed, answered]) == [
        [(CAMERAS[damaged], 'failed')],
        [(CAMERAS[1 - damaged], 'answered')],
    ]
    ((_, partner, eye),) = locator.asked
    assert (partner, eye, answered[0].alone) == (None, 1 - damaged, True)


def test_run_that_fails_costs_both_eyes_of_the_pair():
    (failed,) = stereo(fail={1: EngineError('no luck')}).answer([arrival(0), arrival(1)], Filters())
    assert outcomes([failed]) == [[('left', 'failed'), ('right', 'failed')]]


def test_cones_are_answered_without_positions_where_placing_fails():
    walk = stereo(ScriptedLocator(fail=RuntimeError('no\nidea')))
    health = Health(CAMERAS, 0.0)
    for _ in range(3):
        (answers,) = walk.answer([arrival(0), arrival(1)], Filters())
        for each in answers:
            health.ended(published(each), 1.0)
    assert outcomes([answers]) == [[('left', 'answered'), ('right', 'matched')]]
    left = answers[0]
    assert (left.positions, left.unplaced) == (None, 'RuntimeError: no idea')
    assert left.found is not None
    reports = health.report(1.0)
    assert reports['left'].counts == {'answered': 3, 'unplaced': 3}
    assert reports['left'].last['unplaced'] == 'RuntimeError: no idea'
    assert reports['right'].counts == {'matched': 3}


def test_each_camera_is_a_rig_of_its_own_without_stereo():
    locators = {camera: ScriptedLocator() for camera in CAMERAS}
    walk = replace(answering(batch=2), locators=locators)
    (answers,) = walk.answer([arrival(0), arrival(1)], Filters())
    assert outcomes([answers]) == [[('left', 'answered'), ('right', 'answered')]]
    for answer in answers:
        ((picture, partner, eye),) = locators[answer.camera].asked
        assert (picture is answer.picture, partner, eye) == (True, None, 0)


def test_slow_placing_is_told_as_a_station():
    class Slow(ScriptedLocator):
        def locate(self, *given):
            time.sleep(0.02)
            return super().locate(*given)

    (answers,) = stereo(Slow()).answer([arrival(0), arrival(1)], Filters())
    times_ms = published(answers[0]).times_ms()
    assert 20 <= times_ms['locate_ms'] <= times_ms['total_ms']


def test_failed_run_costs_its_own_pictures_only():
    walk = answering(fail={1: EngineError('no\nluck')})
    found = list(walk.answer([arrival(0), arrival(1)], Filters()))
    assert outcomes(found) == [[('left', 'failed')], [('right', 'answered')]]
    assert found[0][0].reason == 'no luck'


def test_lost_engine_fails_every_picture_that_is_left():
    walk = answering(fail={1: EngineLostError('gone')}).answer([arrival(0), arrival(1)], Filters())
    assert outcomes([next(walk)]) == [[('left', 'failed'), ('right', 'failed')]]
    with pytest.raises(EngineLostError):
        next(walk)


MS = 1_000_000


def published(answer):
    """Sent at once, if there is something to send."""
    if answer.outcome != 'answered':
        return answer
    sent_ns = answer.moments_ns['located_ns']
    return replace(answer, moments_ns={**answer.moments_ns, 'published_ns': sent_ns})


PICTURE = Frame(np.zeros((720, 1280, 3), np.uint8))


def outcome_of(outcome, camera='left', reason=''):
    return Answer(camera, Arrival(0, 0, None), outcome, {'received_ns': 0}, reason)


def answer_after(inference_ms, age_ms=None):
    """Stations of 1, 2, inference_ms, 3, 1 and 3 ms."""
    moments = {'received': 0, 'started': 1, 'prepared': 3, 'inferred': 3 + inference_ms}
    later = {'decoded': 6, 'located': 7, 'published': 10}
    moments |= {name: ms + inference_ms for name, ms in later.items()}
    moments_ns = {f'{name}_ns': round(ms * MS) for name, ms in moments.items()}
    arrival = Arrival(0, 0, None, age_ms=age_ms)
    return Answer('left', arrival, 'answered', moments_ns, picture=PICTURE)


def test_rates_are_of_the_last_seconds_only():
    health = Health(['left'], 0.0)
    for tenth in range(100):
        health.received('left', tenth / 10)
        if tenth % 2:
            health.ended(answer_after(5.0), tenth / 10)
    report = health.report(9.95)['left']
    assert report.rate_in_hz == 10
    assert report.rate_out_hz == 5
    assert (report.counts['received'], report.counts['answered']) == (100, 50)
    assert health.report(30.0)['left'].rate_in_hz == 0


def test_rate_is_true_before_the_window_has_filled():
    health = Health(['left'], 100.0)
    for tenth in range(1, 11):
        health.received('left', 100 + tenth / 10)
    assert health.report(101.0)['left'].rate_in_hz == 10


def test_percentiles_are_by_station():
    health = Health(['left'], 0.0)
    for inference_ms in range(101):
        health.ended(answer_after(inference_ms), 1.0)
    latency_ms = health.report(1.0)['left'].latency_ms
    assert latency_ms['inference_ms'] == (50, 99)
    assert latency_ms['wait_ms'] == (1, 1)
    assert latency_ms['total_ms'] == (60, 109)


def test_cones_are_counted_by_what_places_them():
    health = Health(['left'], 0.0)
    for second in range(1, 6):
        counts = {'stereo': 8, 'height': 2}
        health.ended(replace(answer_after(5.0), positions=positions(10, counts)), float(second))
    assert health.report(5.0)['left'].places_hz == {'stereo': 8, 'height': 2}
    health.ended(replace(answer_after(5.0), positions=positions(10, {'stereo': 10})), 11.0)
    assert health.report(11.0)['left'].places_hz == {'stereo': 2}


def test_age_counts_only_where_it_is_known():
    health = Health(['left'], 0.0)
    health.ended(answer_after(5.0), 1.0)
    assert 'age_ms' not in health.report(1.0)['left'].latency_ms
    health.ended(answer_after(5.0, age_ms=7.0), 1.0)
    assert health.report(1.0)['left'].latency_ms['age_ms'] == (7, 7)


def test_each_camera_is_counted_by_itself():
    health = Health(['left', 'right'], 0.0)
    health.ended(outcome_of('failed', reason='corrupt'), 1.0)
    health.ended(outcome_of('dropped', 'right'), 1.0)
    reports = health.report(1.0)
    assert reports['left'].counts == {'failed': 1}
    assert reports['right'].counts == {'dropped': 1}
    assert reports['left'].last['failed'] == 'corrupt'


def test_silence_is_counted_from_the_last_frame_or_the_start():
    health = Health(['left'], 10.0)
    assert health.report(13.0)['left'].silent_s == 3
    health.received('left', 14.0)
    assert health.report(14.5)['left'].silent_s == 0.5


def test_band_of_a_camera_follows_its_own_last_answers(tmp_path):
    """One camera sees a cone low, the other none: each keeps its own row."""
    bundle = read_bundle(write_tiny_bundle(tmp_path, batch=2))
    horizons = {'left': Horizon(), 'right': Horizon(0.25)}
    low = painted(('blue_cone', 640, 360, 64, 64))
    pictures = [encode(bgr, 'bgr8') for bgr in (low, np.full_like(low, 114))]
    with ConeDetector(bundle.card, open_engine(bundle, batch=2), 'whole+horizon') as detector:
        walk = Answering(detector, horizons)
        pair = [Arrival(topic, 0, message) for topic, message in enumerate(pictures)]
        for _ in range(2):
            answers = [one for batch in walk.answer(pair, Filters()) for one in batch]
            assert [a.found.band_px for a in answers] == pytest.approx([360, 180], abs=2)
    assert horizons['left'].row_px(72) == pytest.approx(36, abs=0.2)


@pytest.mark.parametrize(
    ('twice_ms', 'once_ms', 'most_ms', 'least', 'every'),
    [
        (50, 25, 50, 1, 1),
        (50, 25, 49, 1, 2),
        (50, 25, 33, 1, 4),
        (50, 25, 49, 5, 5),
        (50, 25, 26.5, 1, None),
        (50, 25, 26.5, 20, 20),
        (50, 25, 25, 1, None),
        (50, 25, 20, 1, None),
        (24, 25, 25, 1, 1),
    ],
)
def test_second_looks_are_as_frequent_as_the_mean_allows(twice_ms, once_ms, most_ms, least, every):
    assert affordable(twice_ms, once_ms, most_ms, least) == every
    if every:
        assert once_ms + (twice_ms - once_ms) / every <= most_ms


@pytest.mark.parametrize(
    ('most_ms', 'views', 'says'),
    [
        (0.0, 'whole+horizon', ''),
        (9_000.0, 'whole+horizon', 'each frame gets it'),
        (0.001, 'whole', 'whole pictures only, although that takes longer too'),
    ],
)
def test_second_look_is_measured_and_taken_away_where_it_takes_too_long(most_ms, views, says):
    engine = SeeingEngine()
    with ConeDetector(seeing_card('whole+horizon'), engine) as detector:
        settings, told = ration_views(detector, DetectorSettings(max_latency_ms=most_ms))
    assert (settings.far_every, detector.views) == (1, views)
    assert says in told
    assert engine.seen == (3 * ROUNDS if most_ms else 0)


def test_halves_of_a_picture_are_looked_at_around_their_own_rows():
    """A far cone in each, at rows that one band does not hold both."""
    bgr = np.full((720, 2560, 3), 114, np.uint8)
    bgr[200:208, 300:306] = BGR_OF_CLASS['blue_cone']
    bgr[500:508, 1280 + 900 : 1280 + 906] = BGR_OF_CLASS['yellow_cone']
    horizons = {'left': Horizon(0.28), 'right': Horizon(0.7)}
    with ConeDetector(seeing_card('whole+horizon'), SeeingEngine()) as detector:
        walk = Answering(detector, horizons, side_by_side=True)
        batches = list(walk.answer([Arrival(0, 0, encode(bgr, 'bgr8'))], Filters()))
    found = {answer.camera: answer.found for batch in batches for answer in batch}
    assert {camera: each.band_px for camera, each in found.items()} == pytest.approx(
        {'left': 0.28 * 720, 'right': 0.7 * 720}
    )
    corners = {camera: each.xyxy_px[:, :2].round().tolist() for camera, each in found.items()}
    assert corners == {'left': [[300, 200]], 'right': [[900, 500]]}
