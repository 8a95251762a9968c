"""`cone-perception bag to-dataset`: which frames of a drive it takes, and what it writes."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from test_accuracy import boxes as cones

from cone_perception.bags.reader import write_image_bag
from cone_perception.cli import main
from cone_perception.replay.drive.open import bag_sha256
from cone_perception.replay.figures.result import ReplayResult, write_result
from cone_perception.replay.to_label.dataset import STATE, yolo_text
from cone_perception.replay.to_label.findings import find_doubts, findings_of, published, spread
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import Frame
from training.data.verify import verify_dataset
from training.simulate.bag import write_drive
from training.simulate.scene import SimulateSettings

NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')
HALF = dict.fromkeys(NAMES, 0.5)
BLUE, YELLOW = 0, 4
START_NS = 1_760_000_000 * 10**9
PERIOD_NS = 100_000_000
TOPIC = '/front/image_raw'
WIDTH, HEIGHT = 160, 96


def frame(index, found):
    stamp_ns = START_NS + index * PERIOD_NS
    fate = 'dropped' if found is None else 'answered'
    return FrameTrace('front', index, stamp_ns, fate, 0, found=found)


def drive(answers):
    """Frames whose answers are `answers`, index -> cones, and one sure cone in all others."""
    return [frame(index, answers.get(index, cones(sure(index)))) for index in range(60)]


def sure(index):
    """It wanders, so that no two frames half a second apart look alike."""
    return (20 + 1.5 * index, 30, 32 + 1.5 * index, 50, 0.9, BLUE)


def places(doubts):
    return [doubt.frame.index for doubt in doubts]


def test_scores_near_the_threshold_are_a_doubt_on_both_sides_of_it():
    unsure = {
        5: cones(sure(5), (100, 30, 112, 50, 0.45, YELLOW)),
        20: cones(sure(20), (100, 30, 112, 50, 0.52, YELLOW)),
        40: cones(sure(40), (100, 30, 112, 50, 0.65, YELLOW)),
    }
    doubts = find_doubts(drive(unsure), NAMES, HALF)
    assert places(doubts) == [20, 5]
    assert doubts[0].weight == pytest.approx(0.8, abs=1e-5)
    assert doubts[1].weight == pytest.approx(0.5, abs=1e-5)
    assert doubts[1].why == '1 with scores near the threshold (yellow_cone 0.45)'


def test_box_of_a_view_is_judged_by_the_threshold_of_that_view():
    found = cones(sure(20), (100, 30, 112, 50, 0.62, YELLOW), (60, 30, 72, 50, 0.3, YELLOW))
    least = np.array([0.5, 0.65, 0.25], np.float32)
    shown = published(frame(20, replace(found, least=least)), np.full(5, 0.5, np.float32))
    assert shown.found.score.tolist() == pytest.approx([0.9, 0.3])
    (doubt,) = find_doubts(drive({20: replace(found, least=least)}), NAMES, HALF)
    assert doubt.weight == pytest.approx(0.7 + 0.5, abs=1e-5)
    near = '(yellow_cone 0.62, yellow_cone 0.30)'
    assert doubt.why == f'2 with scores near the threshold {near}'


def test_missed_false_and_vanished_cones_are_named():
    frames = drive({30: cones((100, 30, 112, 50, 0.9, YELLOW))})
    truth = {(f.camera, f.stamp_ns): cones(sure(f.index)) for f in frames}
    (doubt,) = find_doubts(frames, NAMES, HALF, truth)
    assert doubt.why == '1 missed (blue_cone 1), 1 false (yellow_cone 1); ' + (
        '1 vanished for this frame (blue_cone 1)'
    )
    assert doubt.weight == 3
    counts = {kind: len(found) for kind, found in doubt.cones.items()}
    assert counts == {'missed': 1, 'false': 1, 'vanished': 1, 'unsure': 0}


def test_small_cones_are_no_reason():
    unsure = {5: cones(sure(5), (100, 30, 106, 40, 0.45, YELLOW))}
    assert find_doubts(drive(unsure), NAMES, HALF, min_height_px=16) == []


def test_frames_taken_are_apart_in_time_and_look_different():
    score = np.linspace(0.45, 0.5, 60)
    unsure = {i: cones(sure(i), (100, 30, 112, 50, score[i], YELLOW)) for i in range(60)}
    chosen = spread(find_doubts(drive(unsure), NAMES, HALF), 5 * PERIOD_NS, 100)
    assert places(chosen) == list(range(59, 0, -5))
    standing = {i: cones(sure(0), (100, 30, 112, 50, score[i], YELLOW)) for i in range(60)}
    assert places(spread(find_doubts(drive(standing), NAMES, HALF), 5 * PERIOD_NS, 9)) == [59]


def test_frames_without_stamps_are_apart_as_at_15_hz():
    score = np.linspace(0.45, 0.5, 60)
    unsure = {i: cones(sure(i), (100, 30, 112, 50, score[i], YELLOW)) for i in range(60)}
    frames = [replace(each, stamp_ns=0) for each in drive(unsure)]
    assert places(spread(find_doubts(frames, NAMES, HALF), 10**9, 100)) == [59, 44, 29, 14]


def test_labels_are_cut_at_the_edge_and_never_twice():
    found = cones(
        (-10, 40, 10, 60, 0.9, BLUE),
        (-10, 40, 10, 60, 0.8, BLUE),
        (150, 80, 170, 100, 0.9, YELLOW),
        (200, 200, 220, 220, 0.9, BLUE),
    )
    assert yolo_text(found, 160, 100).splitlines() == [
        '0 0.031250 0.500000 0.062500 0.200000',
        '4 0.968750 0.900000 0.062500 0.200000',
    ]


@pytest.fixture
def replayed(tmp_path):
    """A bag of 60 pictures, and the result of a replay of it with three doubtful frames."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8) for _ in range(60)]
    bag = tmp_path / 'corner'
    stamped = (Frame(bgr, START_NS + i * PERIOD_NS) for i, bgr in enumerate(pictures))
    write_image_bag(bag, stamped, TOPIC)
    doubtful = {
        index: cones(sure(index), (100, 30, 112, 50, score, YELLOW))
        for index, score in ((5, 0.51), (20, 0.55), (23, 0.56))
    }
    frames = drive({**doubtful, 40: cones(), 50: None})
    camera = {'name': 'front', 'topic': TOPIC, 'compressed': False, 'truth_topic': None}
    recorded = {'cameras': [camera], 'frames': 60, 'duration_s': 6.0, 'storage': 'mcap'}
    result = ReplayResult(
        configuration={},
        bag={'path': str(bag), 'sha256': bag_sha256(bag), **recorded},
        model={'class_names': list(NAMES), 'thresholds': HALF},
        host={},
        figures={},
        per_pass=[],
        passes=[frames],
        load=[[]],
    )
    write_result(tmp_path / 'result.json', result)
    return bag, tmp_path / 'result.json', pictures, result


def to_dataset(bag, out, *more):
    return main(['bag', 'to-dataset', str(bag), '--out', str(out), *map(str, more)])


def test_frames_of_a_replay_become_a_data_set(replayed, tmp_path, capsys):
    bag, result, pictures, _ = replayed
    out = tmp_path / 'set'
    assert to_dataset(bag, out, '--result', result, '--png') == 0
    names = [f'corner_front_{index:06d}' for index in (5, 20, 40)]
    assert [p.stem for p in sorted((out / 'images/train').iterdir())] == names
    assert [p.stem for p in sorted((out / 'labels/train').iterdir())] == names
    written = cv2.imread(str(out / 'images/train' / f'{names[1]}.png'))
    np.testing.assert_array_equal(written, pictures[20])
    assert (out / 'labels/train' / f'{names[2]}.txt').read_text() == ''
    assert len((out / 'labels/train' / f'{names[0]}.txt').read_text().splitlines()) == 2
    data = yaml.safe_load((out / 'data.yaml').read_text())
    assert tuple(data['names'].values()) == NAMES
    with (out / 'why.csv').open() as stream:
        why = list(csv.DictReader(stream))
    assert [row['index'] for row in why] == ['40', '5', '20']  # 23 is too close to 20
    assert why[0]['why'] == '1 vanished for this frame (blue_cone 1)'
    assert names[2] in (out / 'index.html').read_text()
    assert '3 of 59 frames' in capsys.readouterr().out


def test_replay_counts_what_its_node_published_in_any_view(replayed):
    _, _, _, result = replayed
    model = {**result.model, 'view_thresholds': {'horizon': {'yellow_cone': 0.3}}}
    told = {'settings': {'thresholds': ['blue_cone:0.2']}}
    least = findings_of(replace(result, model=model, configuration=told), None).thresholds
    assert least == pytest.approx({**HALF, 'yellow_cone': 0.3, 'blue_cone': 0.2})


def test_the_data_set_is_verified_by_training(replayed, tmp_path):
    bag, result, _, _ = replayed
    assert to_dataset(bag, tmp_path / 'set', '--result', result) == 0
    report = verify_dataset(tmp_path / 'set', {'train': 3})
    assert report.ok
    assert [problem.kind for problem in report.problems] == ['to-label']
    assert report.names == NAMES


def test_truth_makes_the_labels_and_finds_what_was_missed(replayed, tmp_path):
    bag, path, _, result = replayed
    truth = {('front', f.stamp_ns): cones(sure(f.index)) for f in result.passes[0]}
    write_result(path, replace(result, truth=truth))
    assert to_dataset(bag, tmp_path / 'set', '--result', path) == 0
    label = tmp_path / 'set/labels/train/corner_front_000040.txt'
    assert label.read_text().split()[0] == str(BLUE)
    with (tmp_path / 'set/why.csv').open() as stream:
        assert next(csv.DictReader(stream))['missed'] == '1'


def test_a_folder_of_somebody_else_is_refused(replayed, tmp_path, capsys):
    bag, result, _, _ = replayed
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set/notes.txt').write_text('mine')
    assert to_dataset(bag, tmp_path / 'set', '--result', result) == 1
    assert 'holds other files' in capsys.readouterr().err
    assert [p.name for p in (tmp_path / 'set').iterdir()] == ['notes.txt']


def test_another_request_for_the_same_folder_is_refused_and_the_same_does_nothing(
    replayed, tmp_path, capsys
):
    bag, result, _, _ = replayed
    out = tmp_path / 'set'
    assert to_dataset(bag, out, '--result', result) == 0
    label = out / 'labels/train/corner_front_000005.txt'
    label.write_text('0 0.5 0.5 0.1 0.1\n')  # corrected by a person
    assert to_dataset(bag, out, '--result', result) == 0
    assert label.read_text() == '0 0.5 0.5 0.1 0.1\n'
    assert to_dataset(bag, out, '--result', result, '--limit', '2') == 1
    assert 'limit differ' in capsys.readouterr().err


def test_the_result_of_another_bag_is_refused(replayed, tmp_path, capsys):
    _, result, pictures, _ = replayed
    other = tmp_path / 'other'
    write_image_bag(other, [Frame(pictures[0], START_NS)], TOPIC)
    assert to_dataset(other, tmp_path / 'set', '--result', result) == 1
    assert 'is not the bag of this result' in capsys.readouterr().err
    assert not (tmp_path / 'set').exists()


def test_nothing_in_doubt_is_said(replayed, tmp_path, capsys):
    bag, path, _, result = replayed
    write_result(path, replace(result, passes=[drive({})]))
    assert to_dataset(bag, tmp_path / 'set', '--result', path) == 1
    assert 'nothing to label' in capsys.readouterr().out


def test_a_kill_costs_no_answer_and_no_picture(tmp_path):
    settings = replace(SimulateSettings(), width_px=320, height_px=180, vary_aspect=False)
    write_drive(tmp_path / 'drive', settings, 1, 3.0, 15.0, False, False)
    out = tmp_path / 'set'
    command = [sys.executable, '-m', 'cone_perception.cli', 'bag', 'to-dataset']
    command += [str(tmp_path / 'drive'), '--out', str(out), '--limit', '4', '--min-height', '4']
    log = out / STATE / 'answers.jsonl'
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 100
        while not (log.is_file() and log.read_bytes().count(b'\n') >= 5):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    lines = log.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b'\n')]
    log.write_bytes(b''.join(kept) + b'["camera", 9')  # as a kill within a line leaves it
    # The first answer becomes the most doubtful one: searched again, the frame would not be.
    wrong = [[10 * i, 9, 10 * i + 8, 49, 0.9, 0] for i in range(30)]
    marked = json.dumps([*json.loads(kept[0])[:4], wrong]).encode() + b'\n'
    log.write_bytes(log.read_bytes().replace(kept[0], marked, 1))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not log.exists()
    with (out / 'why.csv').open() as stream:
        why = list(csv.DictReader(stream))
    assert why[0]['index'] == '0'
    assert int(why[0]['false']) == 30
    # One picture is lost, and the end of the run: only that one is written again.
    (out / STATE / 'finished').unlink()
    log.write_bytes(marked)
    pictures = sorted((out / 'images/train').iterdir())
    before = {p: p.stat().st_mtime_ns for p in pictures}
    pictures[-1].unlink()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert sorted((out / 'images/train').iterdir()) == pictures
    unchanged = [p for p in pictures if p.stat().st_mtime_ns == before[p]]
    assert unchanged == pictures[:-1]
    assert verify_dataset(out, {'train': len(pictures)}).ok
