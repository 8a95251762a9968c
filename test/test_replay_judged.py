"""Tests how well the cones of a replay were found: figures that can be computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cone_perception.accuracy.average_precision import band_name, map50, rank
from cone_perception.accuracy.matching import Matches
from cone_perception.bags.reader import write_image_bag
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, read_bundle
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.accuracy import (
    BANDS_PX,
    accuracy_figures,
    agreement_figures,
    consistency_figures,
    reference_answers,
    worst_frames,
)
from cone_perception.replay.figures.flicker import find_flicker, follow
from cone_perception.replay.run import measure
from cone_perception.replay.traces import Camera, Drive, FrameTrace, Pace, Pass
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame

NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')
HALF = dict.fromkeys(NAMES, 0.5)
BLUE, YELLOW = 0, 4
PERIOD_NS = 100_000_000
START_NS = 1_760_000_000 * 10**9


def cones(*rows):
    """Detections from (left, top, width, height, class) or the same with a score."""
    table = np.array([(*row, 0.9)[:6] if len(row) == 5 else row for row in rows], np.float32)
    table = table.reshape(-1, 6)
    corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    return Detections(corners, table[:, 5].copy(), table[:, 4].astype(np.int64))


def frame(index, found, camera='camera', latency_ms=20):
    """Answered with `found`; dropped where it is None."""
    sent_ns = index * PERIOD_NS
    sent = (camera, index, START_NS + sent_ns)
    if found is None:
        return FrameTrace(*sent, 'dropped', sent_ns)
    returned_ns = sent_ns + latency_ms * 10**6
    return FrameTrace(*sent, 'answered', sent_ns, returned_ns=returned_ns, found=found)


def drive(*answers):
    return Pass(Pace(), [frame(index, found) for index, found in enumerate(answers)])


def truth_of(one, *truths):
    return {(f.camera, f.stamp_ns): t for f, t in zip(one.frames, truths, strict=True)}


LEFT = (100, 300, 20, 30, BLUE)
RIGHT = (600, 300, 20, 30, YELLOW)


def test_yellow_answered_as_blue_costs_blue_precision_and_yellow_recall():
    # Ten frames with one blue and one yellow cone; in four of them the yellow one comes as blue.
    wrong = cones(LEFT, (*RIGHT[:4], BLUE))
    one = drive(*[wrong] * 4, *[cones(LEFT, RIGHT)] * 6)
    figures = accuracy_figures([one], truth_of(one, *[cones(LEFT, RIGHT)] * 10), NAMES, HALF)
    value = {name: figure.value for name, figure in figures.items()}
    assert value['precision_sent blue_cone'] == pytest.approx(10 / 14)
    assert value['recall_sent blue_cone'] == 1
    assert value['precision_sent yellow_cone'] == 1
    assert value['recall_sent yellow_cone'] == pytest.approx(6 / 10)
    assert value['precision_sent'] == value['recall_sent'] == pytest.approx(16 / 20)
    assert math.isnan(value['recall_sent orange_cone'])


def test_box_that_a_view_lets_pass_counts_below_the_threshold_of_the_whole_picture(tmp_path):
    sure = (*LEFT, 0.9), (*RIGHT, 0.3)
    one = drive(cones(*sure), cones(*sure))
    truth = truth_of(one, *[cones(LEFT, RIGHT)] * 2)
    played = Drive(tmp_path, '', (Camera('camera', '/image', False),), 2, 0.1, 'mcap', truth=truth)
    half = replace(read_bundle().card, thresholds=HALF, view_thresholds={})
    lower = replace(half, view_thresholds={'horizon': {'yellow_cone': 0.25}})
    for card, told, recall in ((half, (), 0.5), (lower, (), 1), (lower, ('yellow_cone:0.4',), 0.5)):
        settings = DetectorSettings(thresholds=told)
        figures = measure([one], played, Bundle(tmp_path, card), settings)
        assert figures['recall_sent'].value == recall


def test_a_lost_frame_is_a_miss_among_those_sent_and_nothing_among_those_answered():
    one = drive(cones(LEFT), None, cones(LEFT), None)
    figures = accuracy_figures([one], truth_of(one, *[cones(LEFT)] * 4), NAMES, HALF)
    assert figures['recall_sent'].value == 0.5
    assert figures['recall_answered'].value == 1
    assert figures['precision_sent'].value == figures['precision_answered'].value == 1
    # All scores are equal, so precision is 1 up to the recall that was reached: 50 trapezoids of
    # 100, the last of them half.
    assert figures['map50_sent'].value == pytest.approx(0.495)
    assert figures['map50_answered'].value == pytest.approx(0.995)


def test_no_answer_at_all_is_recall_zero_among_those_sent_and_unknown_among_those_answered():
    one = drive(None, None)
    figures = accuracy_figures([one], truth_of(one, cones(LEFT), cones(LEFT)), NAMES, HALF)
    assert figures['recall_sent'].value == 0
    assert figures['map50_sent'].value == 0
    assert math.isnan(figures['precision_sent'].value)
    assert math.isnan(figures['recall_answered'].value)


def test_frames_whose_truth_is_not_known_are_not_judged():
    one = drive(cones(LEFT), cones(RIGHT))
    truth = dict([next(iter(truth_of(one, cones(LEFT), cones()).items()))])
    figures = accuracy_figures([one], truth, NAMES, HALF)
    assert figures['precision_sent'].value == figures['recall_sent'].value == 1


def test_cones_are_judged_in_the_band_of_their_height():
    small, tall = (100, 300, 8, 12, BLUE), (300, 200, 60, 90, BLUE)
    one = drive(cones(tall), cones(tall, small))
    figures = accuracy_figures([one], truth_of(one, *[cones(small, tall)] * 2), NAMES, HALF)
    assert figures['recall_sent 0-16 px'].value == 0.5
    assert figures['recall_sent from 64 px'].value == 1
    assert math.isnan(figures['recall_sent 16-32 px'].value)
    names = [band_name(*band) for band in BANDS_PX]
    assert names == ['0-16 px', '16-32 px', '32-64 px', 'from 64 px']


def random_drive(seed, frames=60):
    rng = np.random.default_rng(seed)
    answers, truths = [], []
    for _ in range(frames):
        count = int(rng.integers(1, 8))
        rows = np.column_stack(
            [
                rng.uniform(0, 1000, (count, 2)),
                np.full(count, 20),
                rng.uniform(10, 80, count),
                rng.integers(0, 5, count),
            ]
        )
        scores = rng.uniform(0.3, 1, count)
        seen = rng.random(count) < 0.8
        truths.append(cones(*rows))
        rows[:, 4] = np.where(rng.random(count) < 0.9, rows[:, 4], BLUE)
        found = cones(*np.column_stack([rows, scores])[seen])
        answers.append(None if rng.random() < 0.1 else found)
    one = drive(*answers)
    return one, truth_of(one, *truths)


def test_figures_are_those_of_the_data_sets_own_summary():
    one, truth = random_drive(1)
    figures = accuracy_figures([one], truth, NAMES, HALF)
    pairs = [(f.found or Detections.empty(), truth[f.camera, f.stamp_ns]) for f in one.frames]
    ranked, once = rank(Matches.of(pairs, len(NAMES))), np.ones((1, len(pairs)), np.int32)
    truths, found, correct = sum(each.counts(once, 0.5) for each in ranked)
    assert figures['precision_sent'].value == pytest.approx(correct / found)
    assert figures['recall_sent'].value == pytest.approx(correct / truths)
    assert figures['map50_sent'].value == pytest.approx(map50(ranked, once))
    for name, each in zip(NAMES, ranked, strict=True):
        ap50 = each.average_precisions(once)[0, 0]
        assert figures[f'ap50_sent {name}'].value == pytest.approx(ap50)


def test_intervals_hold_the_value_and_come_again_with_the_same_seed():
    one, truth = random_drive(2)
    figures = accuracy_figures([one], truth, NAMES, HALF)
    for name in ('precision_sent', 'recall_answered', 'map50_sent'):
        assert figures[name].low < figures[name].value < figures[name].high
    again = accuracy_figures([one], truth, NAMES, HALF)
    assert figures['map50_sent'] == again['map50_sent']


def test_a_second_pass_over_the_same_frames_makes_no_interval_narrower():
    # The drive has no more seconds than before: what is drawn again is each second of it.
    one, truth = random_drive(3)
    once = accuracy_figures([one], truth, NAMES, HALF)['recall_sent']
    twice = accuracy_figures([one, one], truth, NAMES, HALF)['recall_sent']
    assert (twice.value, twice.low, twice.high) == pytest.approx(
        (once.value, once.low, once.high), abs=1e-12
    )


def test_a_drive_of_less_than_a_second_has_no_interval():
    one = drive(*[cones(LEFT)] * 5)
    figure = accuracy_figures([one], truth_of(one, *[cones(LEFT)] * 5), NAMES, HALF)['recall_sent']
    assert figure.value == 1
    assert math.isnan(figure.low)
    assert math.isnan(figure.high)


def test_agreement_counts_cones_of_both_models():
    # Ours 3 + 1, theirs 2 + 2; the same are 2 + 1. A frame that we lost does not count.
    one = drive(cones(LEFT, RIGHT, (300, 300, 20, 30, BLUE)), cones(LEFT), None)
    theirs = truth_of(one, cones(LEFT, RIGHT), cones(LEFT, RIGHT), cones(LEFT))
    figures = agreement_figures([one], theirs)
    assert figures['agreement_precision'].value == pytest.approx(3 / 4)
    assert figures['agreement_recall'].value == pytest.approx(3 / 4)
    assert figures['agreement_f1'].value == pytest.approx(2 * 3 / 8)


class CountingDetector:
    """Finds as many cones as it was asked before."""

    def __init__(self):
        self.asked = 0

    def detect(self, frames, filters, horizons):
        found = cones(*[(20 * i, 0, 10, 20, BLUE) for i in range(self.asked)])
        self.asked += 1
        return [found], None


def test_a_reference_answers_every_picture_that_has_its_own_stamp(tmp_path):
    bgr = np.zeros((24, 32, 3), np.uint8)
    stamps = [START_NS + i * PERIOD_NS for i in (0, 1, 1, 2)]
    write_image_bag(tmp_path / 'bag', [Frame(bgr, stamp) for stamp in stamps], '/front/image')
    drive = open_drive(tmp_path / 'bag', class_names=NAMES)
    answers = reference_answers(drive, CountingDetector(), Filters())
    assert {place: len(found) for place, found in answers.items()} == {
        ('front', stamps[0]): 0,
        ('front', stamps[3]): 3,
    }


def test_a_reference_answers_what_comes_before_the_damage(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    frames = [Frame(noise, START_NS + i * PERIOD_NS) for i in range(12)]
    write_image_bag(tmp_path / 'bag', frames, '/front/image')
    (file,) = (tmp_path / 'bag').glob('*.mcap')
    with file.open('r+b') as stream:
        stream.truncate(file.stat().st_size // 2)
    drive = open_drive(tmp_path / 'bag', class_names=NAMES)
    assert drive.problems
    answers = reference_answers(drive, CountingDetector(), Filters())
    assert 0 < len(answers) == drive.frames < 12


def test_a_cone_that_vanishes_for_one_frame_is_flicker():
    # Two cones over five frames; the yellow one is missing in the third. Three frames have
    # neighbours: 3 x 2 cones seen before and after, one of them not in between.
    # Frames 1 and 3 can follow the blue cone only (the yellow one ends there).
    both = cones(LEFT, RIGHT)
    one = drive(both, both, cones(LEFT), both, both)
    figures = consistency_figures([one], NAMES)
    assert [len(each.gone) for each in find_flicker(one.frames)] == [0, 1, 0]
    assert [len(each.steady_class_id) for each in find_flicker(one.frames)] == [1, 1, 1]
    assert figures['flicker_share'].value == pytest.approx(1 / 4)
    assert figures['flicker_share yellow_cone'].value == 1
    assert figures['flicker_share blue_cone'].value == 0
    assert figures['detections_per_frame'].value == pytest.approx(9 / 5)
    (gone,) = (each.gone for each in find_flicker(one.frames) if len(each.gone))
    np.testing.assert_allclose(gone.xyxy_px, cones(RIGHT).xyxy_px)


def test_a_cone_of_another_class_for_one_frame_has_vanished():
    one = drive(cones(LEFT), cones((*LEFT[:4], YELLOW)), cones(LEFT))
    assert consistency_figures([one], NAMES)['flicker_share'].value == 1


def test_a_lost_frame_is_no_flicker():
    one = drive(cones(LEFT), None, cones(LEFT), cones(LEFT))
    figures = consistency_figures([one], NAMES)
    assert math.isnan(figures['flicker_share'].value)
    assert figures['detections_per_frame'].value == 1


def test_cameras_are_followed_apart():
    frames = [
        *(frame(index, cones(LEFT), 'left') for index in range(3)),
        *(frame(index, cones(RIGHT), 'right') for index in range(3)),
    ]
    frames = [frames[place] for place in (0, 3, 1, 4, 2, 5)]
    figures = consistency_figures([Pass(Pace(), frames)], NAMES)
    assert figures['flicker_share'].value == 0


def moved(rows, right, down=0):
    return [(left + right, top + down, *rest) for left, top, *rest in rows]


FIELD = [
    (100, 300, 30, 45, BLUE),
    (250, 280, 16, 24, BLUE),
    (330, 270, 10, 15, BLUE),
    (900, 300, 30, 45, YELLOW),
    (760, 280, 16, 24, YELLOW),
]


def test_a_turning_camera_does_not_look_like_flicker():
    # 90 px per frame, six heights of the smallest cone.
    one = drive(*(cones(*moved(FIELD, 90 * i, (-1) ** i * 10)) for i in range(4)))
    figures = consistency_figures([one], NAMES)
    assert figures['flicker_share'].value == 0
    assert [len(each.steady_class_id) for each in find_flicker(one.frames)] == [5, 5]


def test_flicker_is_seen_while_the_camera_turns():
    rows = [moved(FIELD, 90 * i) for i in range(3)]
    one = drive(cones(*rows[0]), cones(*rows[1][:2], *rows[1][3:]), cones(*rows[2]))
    (each,) = find_flicker(one.frames)
    np.testing.assert_allclose(each.gone.xyxy_px, cones(rows[1][2]).xyxy_px)
    assert len(each.steady_class_id) == 4
    onto, _ = follow(one.frames[0].found, one.frames[1].found)
    assert onto.tolist() == [0, 1, -1, 2, 3]


def test_a_cone_that_passes_by_too_fast_to_be_followed_is_no_flicker():
    # It moves by 1.2 of its heights per frame while another one stands still.
    one = drive(*(cones(LEFT, (600 + 48 * i, 300, 26, 40, BLUE)) for i in range(5)))
    assert consistency_figures([one], NAMES)['flicker_share'].value == 0


def corridor(frame_index):
    """Blue cones left, yellow ones right, every 5 m, seen by a camera that moves 1 m per frame.

    Pinhole of 700 px, 1 m above the ground, cones 0.2 m wide and 0.325 m tall.
    """
    rows = []
    for x_m, colour in ((-1.5, BLUE), (1.5, YELLOW)):
        for metres in range(5, 60, 5):
            z_m = metres - frame_index + 0.3
            if z_m > 2.5:
                width, height = 700 * 0.2 / z_m, 700 * 0.325 / z_m
                left, foot = 640 + 700 * x_m / z_m - width / 2, 360 + 700 / z_m
                rows.append((left, foot - height, width, height, colour))
    return rows


def test_cones_are_followed_by_a_car_that_drives_and_turns():
    # The nearest cone followed comes from 4.3 m to 3.3 m: 1.2 of its heights to the side.
    one = drive(*(cones(*moved(corridor(i), 25 * i, (-1) ** i * 4)) for i in range(12)))
    flickers = list(find_flicker(one.frames))
    assert sum(len(each.gone) for each in flickers) == 0
    seen_to_the_end = [len(after.found) for after in one.frames[2:]]
    assert [len(each.steady_class_id) for each in flickers] == seen_to_the_end


def test_flicker_is_found_and_placed_while_the_car_drives():
    for lost in (0, 3, 7, 12):
        answers = [corridor(i) for i in range(3)]
        gone = answers[1].pop(lost)
        one = drive(*(cones(*rows) for rows in answers))
        (each,) = find_flicker(one.frames)
        np.testing.assert_allclose(each.gone.xyxy_px, cones(gone).xyxy_px, atol=0.2 * gone[3])


def test_worst_frames_name_what_is_wrong_and_are_not_neighbours():
    both = cones(LEFT, RIGHT)
    answers = [both] * 40
    answers[10] = cones()  # two missed
    answers[12] = cones()  # as bad, but 0.2 s later
    answers[30] = cones(LEFT)
    frames = [frame(i, found, latency_ms=90 if i == 20 else 20) for i, found in enumerate(answers)]
    one = Pass(Pace(), frames)
    worst = worst_frames(frames, truth_of(one, *[both] * 40), NAMES, count=4)
    places = [(each.frame.stamp_ns - START_NS) // PERIOD_NS for each in worst]
    assert places[:2] == [10, 20]
    assert 30 in places
    assert 12 not in places
    assert worst[0].why == (
        '2 missed (blue_cone 1, yellow_cone 1); '
        '2 vanished for this frame (blue_cone 1, yellow_cone 1)'
    )
    assert worst[1].why == 'answered after 90.0 ms'


def test_worst_frames_of_a_drive_without_truth_are_the_slow_and_the_flickering():
    one = drive(*[cones(LEFT)] * 3, cones(), *[cones(LEFT)] * 3)
    worst = worst_frames(one.frames, None, NAMES, count=1)
    assert worst[0].why == '1 vanished for this frame (blue_cone 1)'
    assert worst_frames([], None, NAMES) == []
