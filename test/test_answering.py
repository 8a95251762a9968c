"""From a batch of messages to answers: which pictures go together, and what a failure costs."""

from __future__ import annotations

import numpy as np
import pytest
from image_messages import encode
from test_replay_pipeline import CARD, Clock, SlowEngine

from cone_perception.answering.answer import Answering, Arrival, NewestFrames, StereoPairs
from cone_perception.errors import EngineError, EngineLostError
from cone_perception.filters import Filters
from cone_perception.pipeline import ConeDetector

CAMERAS = ('left', 'right')


def arrival(topic, width=64, encoding='bgr8'):
    message = encode(np.full((48, width, 3), 114, np.uint8), 'bgr8')
    message.encoding = encoding
    return Arrival(topic, 0, message)


def answering(batch=1, side_by_side=False, fail=None):
    detector = ConeDetector(CARD, SlowEngine(Clock(), batch=batch, fail=fail))
    return Answering(detector, CAMERAS, side_by_side)


def outcomes(found):
    """Camera and outcome of each answer, batch by batch."""
    return [[(answer.camera, answer.outcome) for answer in batch] for batch in found]


def test_engine_for_two_answers_both_cameras_in_one_run():
    walk = answering(batch=2)
    assert isinstance(walk.make_inbox(2.0), StereoPairs)
    (pair,) = walk.answer([arrival(0), arrival(1)], Filters())
    assert outcomes([pair]) == [[('left', 'answered'), ('right', 'answered')]]
    assert not any(answer.alone for answer in pair)


def test_picture_whose_partner_cannot_be_decoded_is_answered_alone():
    failed, answered = answering(batch=2).answer(
        [arrival(0, encoding='nv99'), arrival(1)], Filters()
    )
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
