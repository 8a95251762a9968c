"""What waits for the network: the newest frame of each topic, and pairs of stereo frames."""

from __future__ import annotations

from cone_perception.answering.answer import Arrival, NewestFrames, StereoPairs

LEFT, RIGHT = 0, 1
MS = 1_000_000


def left(stamp_ms):
    return Arrival(LEFT, int(stamp_ms * MS), f'L{stamp_ms}')


def right(stamp_ms):
    return Arrival(RIGHT, int(stamp_ms * MS), f'R{stamp_ms}')


def contents(frames):
    return [frame.message for frame in frames]


def test_newest_frame_replaces_the_one_that_waits():
    inbox = NewestFrames()
    assert inbox.offer(left(1)) == []
    assert contents(inbox.offer(left(2))) == ['L1']
    assert contents(inbox.take()) == ['L2']
    assert inbox.take() == []


def test_frames_that_are_given_up_are_all_named():
    inbox = NewestFrames()
    inbox.offer(right(1))
    inbox.offer(left(2))
    assert contents(inbox.clear()) == ['R1', 'L2']
    assert inbox.take() == []
    pairs = StereoPairs(MS)
    for frame in (left(1), right(1), left(2)):
        pairs.offer(frame)
    assert contents(pairs.clear()) == ['L1', 'R1', 'L2']
    assert pairs.take() == pairs.clear() == []


def test_fast_camera_does_not_starve_a_slow_one():
    inbox = NewestFrames()
    inbox.offer(right(1))
    for stamp_ms in range(5):
        inbox.offer(left(stamp_ms))
    assert contents(inbox.take()) == ['R1']
    inbox.offer(right(2))
    assert contents(inbox.take()) == ['L4']


def test_equal_stamps_go_as_one_pair_left_first():
    inbox = StereoPairs(2 * MS)
    inbox.offer(right(10))
    assert inbox.take() == []
    inbox.offer(left(10))
    assert contents(inbox.take()) == ['L10', 'R10']


def test_order_of_arrival_may_change_from_pair_to_pair():
    inbox = StereoPairs(2 * MS)
    for stamp_ms, order in enumerate([(left, right), (right, left), (left, right), (right, left)]):
        for side in order:
            assert inbox.take() == []
            inbox.offer(side(10 * stamp_ms))
        assert contents(inbox.take()) == [f'L{10 * stamp_ms}', f'R{10 * stamp_ms}']


def test_tolerance_is_the_largest_difference_of_a_pair():
    inbox = StereoPairs(2 * MS)
    inbox.offer(left(10))
    inbox.offer(right(12))
    assert contents(inbox.take()) == ['L10', 'R12']
    inbox.offer(left(20))
    inbox.offer(right(22.1))
    assert contents(inbox.take()) == ['L20']


def test_newest_pair_replaces_the_one_that_waits():
    inbox = StereoPairs(2 * MS)
    for stamp_ms in (10, 20):
        inbox.offer(left(stamp_ms))
        pushed_out = inbox.offer(right(stamp_ms))
    assert contents(pushed_out) == ['L10', 'R10']
    assert contents(inbox.take()) == ['L20', 'R20']


def test_half_a_newer_pair_does_not_break_an_older_one():
    inbox = StereoPairs(2 * MS)
    inbox.offer(left(10))
    inbox.offer(right(10))
    inbox.offer(left(20))
    assert contents(inbox.take()) == ['L10', 'R10']
    inbox.offer(right(20))
    assert contents(inbox.take()) == ['L20', 'R20']


def test_one_dead_camera_does_not_blind_the_other():
    inbox = StereoPairs(2 * MS)
    answered = []
    for stamp_ms in range(10, 60, 10):
        inbox.offer(left(stamp_ms))
        answered += contents(inbox.take())
    assert answered == ['L20', 'L30', 'L40', 'L50']
    inbox.offer(right(50))
    inbox.offer(left(60))
    inbox.take()
    inbox.offer(right(60))
    assert contents(inbox.take()) == ['L60', 'R60']


def test_cameras_that_are_not_synchronised_are_both_answered():
    inbox = StereoPairs(2 * MS)
    answered = []
    for stamp_ms in range(0, 100, 20):
        inbox.offer(left(stamp_ms))
        answered += contents(inbox.take())
        inbox.offer(right(stamp_ms + 10))
        answered += contents(inbox.take())
    assert answered == ['L0', 'R10', 'L20', 'R30', 'L40', 'R50', 'L60', 'R70', 'L80']


def test_bag_that_starts_over_is_paired_again():
    inbox = StereoPairs(2 * MS)
    inbox.offer(left(1000))
    for stamp_ms in (10, 20, 30):
        inbox.offer(left(stamp_ms))
        inbox.offer(right(stamp_ms))
    assert contents(inbox.take()) == ['L30', 'R30']
