"""benchmarks/peer_node.py answers as its weights do, and benchmarks/replay.py reckons rightly."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_messages import encode
from tiny_network import CLASS_NAMES, write_tiny_bundle
from tiny_yolo import write_architecture

from cone_perception.model_card import read_bundle
from cone_perception.replay.to_label.findings import published
from cone_perception.replay.traces import MOMENTS, Camera, Drive, FrameTrace, Pace, Pass
from cone_perception.types import Detections

BENCHMARKS = Path(__file__).parents[1] / 'benchmarks'
TOPIC, ANSWERS = '/peer/image', '/peer/detections'
CONFIDENCE = 1e-6


@pytest.fixture(scope='module')
def benchmark():
    """Import it as a script is seen: its folder comes first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module('replay')


@pytest.mark.ros
def test_peer_answers_with_the_header_and_the_boxes_of_predict(observer, tmp_path):
    pytest.importorskip('ultralytics')
    from node_process import RELIABLE, ros_message, stamp_ns_of, wait_for
    from vision_msgs.msg import Detection2DArray

    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics import YOLO

    weights = tmp_path / 'tiny.pt'
    YOLO(write_architecture(tmp_path)).save(weights)
    random = np.random.default_rng(0)
    bgr = cv2.resize(random.integers(0, 256, (45, 80, 3), np.uint8), (1280, 720))
    command = [sys.executable, str(BENCHMARKS / 'peer_node.py'), '--weights', str(weights)]
    command += ['--image-topic', TOPIC, '--detections', ANSWERS, '--confidence', str(CONFIDENCE)]
    with (tmp_path / 'peer.log').open('w') as log:
        peer = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        answers = observer.listen(ANSWERS, Detection2DArray)
        fields = encode(bgr, 'bgr8')
        publisher = observer.publisher(
            TOPIC, type(ros_message(fields, observer.next_stamp_ns())), RELIABLE
        )
        wait_for(publisher.get_subscription_count, 'the peer', 60)
        sent: set[int] = set()

        def answered() -> bool:
            """Best effort: the first picture may be lost while both sides meet."""
            stamp_ns = observer.next_stamp_ns()
            sent.add(stamp_ns)
            publisher.publish(ros_message(fields, stamp_ns))
            time.sleep(0.2)
            return bool(answers)

        wait_for(answered, 'an answer')
        peer.send_signal(signal.SIGINT)
        assert peer.wait(20) == 0
    finally:
        peer.kill()
    (expected,) = YOLO(weights).predict(
        bgr, imgsz=640, conf=CONFIDENCE, iou=0.6, device='cpu', verbose=False
    )
    answer = answers[0]
    assert stamp_ns_of(answer) in sent
    assert answer.header.frame_id == 'camera_link'
    boxes = expected.boxes
    assert len(answer.detections) == len(boxes) > 0
    for detection, xywh, score, class_id in zip(
        answer.detections, boxes.xywh.tolist(), boxes.conf.tolist(), boxes.cls, strict=True
    ):
        centre, box = detection.bbox.center.position, detection.bbox
        assert [centre.x, centre.y, box.size_x, box.size_y] == pytest.approx(xywh, abs=0.01)
        (result,) = detection.results
        assert result.hypothesis.score == pytest.approx(score, abs=1e-4)
        assert result.hypothesis.class_id == expected.names[int(class_id)]


def frame(index: int, wait_ms: float, run_ms: float, own_ms: float = 1.0) -> FrameTrace:
    """Answered; a millisecond of transport, `own_ms` at each of the node's other stations."""
    stations_ms = index * 1e3, 1, wait_ms, own_ms, run_ms, own_ms, 0, own_ms, 1
    moments_ns = [round(each_ms * 1e6) for each_ms in accumulate(stations_ms)]
    moments = dict(zip(MOMENTS, moments_ns, strict=True))
    return FrameTrace('camera', index, moments_ns[0], 'answered', **moments)


def test_age_is_held_against_the_run_before_and_the_own_one(benchmark):
    """Bound: 1 ms of transport and both runs. The first frame has no run before it."""
    frames = [
        frame(0, wait_ms=0, run_ms=20),
        frame(1, wait_ms=16, run_ms=10),  # 1 + 16 + 10 + 3 = 30 of 31 ms
        frame(2, wait_ms=8, run_ms=10),  # 22 of 21 ms
        frame(3, wait_ms=50, run_ms=10),  # the last one, which no newer one pushes out
    ]
    ages = benchmark.age_when_faster([Pass(Pace('hz', hz=60), frames)])
    assert ages['frames'] == 2
    assert ages['older_than_bound'] == 1
    assert ages['age_p50_ms'] == pytest.approx(26)
    assert ages['wait_p50_ms'] == pytest.approx(12)


def boxes(count: int, score: float = 0.9) -> Detections:
    """As many cones in a row."""
    left = 20 * np.arange(count, dtype=np.float32)
    xyxy = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    return Detections(xyxy, np.full(count, score, np.float32), np.zeros(count, int))


def test_right_cones_are_counted_on_the_pictures_that_all_nodes_answered(benchmark, tmp_path):
    """A peer's boxes below the card's threshold do not count; ours were cut by the node."""
    card = read_bundle(write_tiny_bundle(tmp_path / 'tiny')).card
    low = card.thresholds[CLASS_NAMES[0]] - 0.1
    truth = {('camera', stamp): boxes(4) for stamp in range(3)}
    camera = Camera('camera', '/image', compressed=False)
    drive = Drive(tmp_path, '', (camera,), 3, 1.0, 'mcap', truth=truth)
    found = {
        benchmark.OURS: [boxes(2), boxes(2, low), boxes(4)],
        benchmark.FAR: [boxes(4), boxes(5), boxes(4)],
        benchmark.STRAIGHT: [boxes(2), boxes(4, low), None],
    }
    passes, figures = {}, {}
    for name, answers in found.items():
        fates = ['lost' if each is None else 'answered' for each in answers]
        frames = [
            FrameTrace('camera', stamp, stamp, fate, 0, found=each)
            for stamp, (fate, each) in enumerate(zip(fates, answers, strict=True))
        ]
        passes[name, benchmark.FAST] = [Pass(Pace('fast'), frames)]
        figures[f'{name}, {benchmark.FAST}'] = {'rate_out_hz': 50, 'node_memory_peak_mb': 1}
    table = benchmark.beside(drive, passes, [*found], card, figures)
    assert table['pictures'] == 2
    counts = {name: (of['right'], of['wrong']) for name, of in table['nodes'].items()}
    expected = {benchmark.OURS: (2, 0), benchmark.FAR: (4, 0.5), benchmark.STRAIGHT: (1, 0)}
    assert counts == {name: pytest.approx(pair) for name, pair in expected.items()}
    assert {of['ms_per_picture'] for of in table['nodes'].values()} == {20}


def test_cones_below_the_threshold_of_their_class_are_left_out(tmp_path):
    card = read_bundle(write_tiny_bundle(tmp_path / 'tiny')).card
    least = card.thresholds[CLASS_NAMES[0]]
    thresholds = np.array([card.thresholds[name] for name in CLASS_NAMES], np.float32)
    boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (2, 1))
    score = np.array([least + 0.01, least - 0.01], np.float32)
    found = Detections(boxes, score, np.zeros(2, int))
    one = FrameTrace('camera', 0, 0, 'answered', 0, found=found)
    lost = FrameTrace('camera', 1, 0, 'dropped', 0)
    assert published(one, thresholds).found.score.tolist() == pytest.approx([least + 0.01])
    assert published(lost, thresholds) is lost
