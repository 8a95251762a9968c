import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tiny_network import CLASS_NAMES, painted, write_tiny_bundle
from waiting import wait_until

from cone_perception.engines.open import open_engine
from cone_perception.filters import Filters
from cone_perception.model_card import read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Frame
from cone_perception.views import Horizon

ENGINES = ['openvino', 'onnxruntime']


@pytest.fixture(scope='module')
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bundles')
    return {
        (layout, batch): read_bundle(write_tiny_bundle(folder / f'{layout}{batch}', layout, batch))
        for layout in ('anchors', 'end_to_end')
        for batch in (1, 2)
    }


def open_detector(bundles, layout='end_to_end', batch=1, engine='openvino'):
    bundle = bundles[layout, batch]
    return ConeDetector(bundle.card, open_engine(bundle, engine, batch, threads=1))


def picture(*cones, height=720, width=1280):
    return Frame(painted(*cones, height_px=height, width_px=width))


# One cell of the tiny network is 64 px at 1280x720; its first full row begins 40 px down.
BLUE = ('blue_cone', 640, 168, 64, 64)
YELLOW = ('yellow_cone', 128, 360, 64, 64)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
def test_painted_cones_are_found_with_class_and_place(bundles, layout, engine):
    with open_detector(bundles, layout, engine=engine) as detector:
        (found,), _ = detector.detect([picture(BLUE, YELLOW)], Filters())
    by_class = {CLASS_NAMES[c]: box for c, box in zip(found.class_id, found.xyxy_px, strict=True)}
    assert set(by_class) == {'blue_cone', 'yellow_cone'}
    np.testing.assert_allclose(by_class['blue_cone'], [640, 168, 704, 232], atol=1)
    np.testing.assert_allclose(by_class['yellow_cone'], [128, 360, 192, 424], atol=1)


def test_both_engines_agree(bundles):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (12, 20, 3), np.uint8).repeat(64, 0).repeat(64, 1)
    frame = Frame(np.ascontiguousarray(noise))
    everything = Filters(thresholds=dict.fromkeys(CLASS_NAMES, 0.05))
    results = []
    for engine in ENGINES:
        with open_detector(bundles, engine=engine) as detector:
            results.append(detector.detect([frame], everything)[0][0])
    assert len(results[0]) == len(results[1]) > 50
    np.testing.assert_allclose(np.sort(results[0].score), np.sort(results[1].score), atol=1e-3)


@pytest.mark.parametrize('size', [(1, 1), (3000, 4096), (1280, 720), (40, 1000)])
def test_picture_of_any_size_is_answered_inside_its_borders(bundles, size):
    height, width = size
    bgr = np.full((height, width, 3), (255, 0, 0), np.uint8)
    with open_detector(bundles) as detector:
        (found,), _ = detector.detect([Frame(bgr)], Filters(thresholds={'blue_cone': 0.01}))
    assert len(found) > 0
    assert (found.xyxy_px >= 0).all()
    assert (found.xyxy_px[:, 2] <= width).all()
    assert (found.xyxy_px[:, 3] <= height).all()


def test_two_pictures_in_one_batch_keep_their_own_cones_and_sizes(bundles):
    small = picture(('yellow_cone', 64, 84, 32, 32), height=360, width=640)
    with open_detector(bundles, batch=2) as detector:
        found, _ = detector.detect([picture(BLUE), small], Filters())
    assert [CLASS_NAMES[f.class_id[0]] for f in found] == ['blue_cone', 'yellow_cone']
    np.testing.assert_allclose(found[0].xyxy_px, [[640, 168, 704, 232]], atol=1)
    np.testing.assert_allclose(found[1].xyxy_px, [[64, 84, 96, 116]], atol=1)


def test_single_picture_in_a_batch_of_two_gets_a_single_answer(bundles):
    with open_detector(bundles, batch=2) as detector:
        found, _ = detector.detect([picture(BLUE)], Filters())
    assert len(found) == 1


def test_earlier_picture_leaves_nothing_behind(bundles):
    with open_detector(bundles) as detector:
        detector.detect([picture(BLUE, height=1280, width=1280)], Filters())
        (found,), _ = detector.detect([picture()], Filters())
    assert len(found) == 0


@pytest.mark.parametrize(
    'filters, classes',
    [
        (Filters(), {'blue_cone', 'yellow_cone'}),
        (Filters(classes=('yellow_cone',)), {'yellow_cone'}),
        (Filters(thresholds={'blue_cone': 1.0, 'yellow_cone': 0.9}), {'blue_cone', 'yellow_cone'}),
        (Filters(region=(0.0, 0.0, 0.3, 0.0, 0.3, 1.0, 0.0, 1.0)), {'yellow_cone'}),
        (Filters(min_height_px=70), set()),
        (Filters(max_height_px=60), set()),
        (Filters(min_height_px=60, max_height_px=70), {'blue_cone', 'yellow_cone'}),
    ],
)
def test_filters_choose_what_counts(bundles, filters, classes):
    with open_detector(bundles) as detector:
        (found,), _ = detector.detect([picture(BLUE, YELLOW)], filters)
    assert {CLASS_NAMES[c] for c in found.class_id} == classes


@pytest.mark.parametrize('views', ['whole', 'whole+horizon', 'whole+horizon+strip'])
@pytest.mark.parametrize('told', [{}, {'blue_cone': 0.6}])
def test_lower_search_tells_what_the_usual_one_finds(bundles, views, told):
    bundle = bundles['anchors', 1]
    of_views = {'horizon': {'blue_cone': 0.7, 'yellow_cone': 0.3}, 'strip': {'orange_cone': 0.6}}
    sure = dict.fromkeys(CLASS_NAMES, 0.35)
    card = replace(bundle.card, thresholds=sure, view_thresholds=of_views)
    noise = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    frame = Frame(np.ascontiguousarray(noise.repeat(64, 0).repeat(64, 1)[:720]))
    usual = Filters(thresholds=told)
    lower = replace(usual, lower=lambda least: least * np.float32(0.6))
    with ConeDetector(card, open_engine(bundle, 'openvino', threads=1), views) as detector:
        ((expected,), _), ((found,), _) = (
            detector.detect([frame], filters) for filters in (usual, lower)
        )
    assert expected.least is None
    assert len(found) > found.counts.sum() > 5
    assert expected.band_px == found.band_px
    for name in ('xyxy_px', 'score', 'class_id'):
        np.testing.assert_array_equal(getattr(found[found.counts], name), getattr(expected, name))
    least = {view: usual.thresholds_for(card, view) for view in ('whole', 'horizon', 'strip')}
    assert set(found.least.tolist()) <= set(np.concatenate([*least.values()]).tolist())


def test_two_streams_answer_two_threads_each_its_own_picture(bundles):
    bundle = bundles['anchors', 1]
    engine = open_engine(bundle, 'openvino', streams=2)
    pictures = [picture(BLUE), picture(YELLOW)]
    with ConeDetector(bundle.card, engine) as detector, ThreadPoolExecutor(2) as pool:
        assert detector.at_once == 2
        found = list(pool.map(lambda n: detector.detect([pictures[n % 2]], Filters()), range(40)))
    expected = ['blue_cone', 'yellow_cone']
    assert [CLASS_NAMES[cones.class_id[0]] for ((cones,), _) in found] == expected * 20


class SharedProcessor:
    """Notes which of its two ways each run takes; with `together`, runs wait for one another."""

    def __init__(self, engine, together=1):
        self.info, self.close = replace(engine.info, at_once=2), engine.close
        self.ways, self._engine = [], engine
        self._ready = threading.Barrier(together, timeout=20)

    @property
    def lone(self):
        return Lone(self)

    def run(self, pictures, way='shared'):
        self.ways.append(way)
        self._ready.wait()
        return self._engine.run(pictures)


class Lone:
    def __init__(self, shared):
        self.info, self.close, self._shared = shared.info, shared.close, shared

    def run(self, pictures):
        return self._shared.run(pictures, 'lone')


@pytest.mark.parametrize(
    'frames, views, ways',
    [
        (1, 'whole', ['lone']),
        (2, 'whole', ['lone', 'shared']),
        (1, 'whole+horizon', ['shared', 'shared']),
    ],
)
def test_only_a_view_beside_which_nothing_runs_gets_the_whole_processor(
    bundles, frames, views, ways
):
    bundle = bundles['anchors', 1]
    engine = SharedProcessor(open_engine(bundle, 'openvino', threads=1), len(ways))
    with ConeDetector(bundle.card, engine, views) as detector, ThreadPoolExecutor(2) as pool:
        for number in range(1, 6):
            searches = []
            for _ in range(frames):
                horizons = [Horizon(start=0.5)]
                searches.append(pool.submit(detector.detect, [picture(BLUE)], Filters(), horizons))
                wait_until(lambda n=number: len(engine.ways) > (n - 1) * len(ways))
            for search in searches:
                search.result()
    assert engine.ways == ways * 5


FIRST_RUNS = """
import sys, threading
import numpy as np
from cone_perception.engines.open import open_engine
from cone_perception.model_card import read_bundle
from pathlib import Path

engine = open_engine(read_bundle(Path(sys.argv[1])), 'openvino', streams=2)
pictures = np.zeros((1, 384, 640, 3), np.uint8)
ready = threading.Barrier(2)
threads = [threading.Thread(target=lambda: (ready.wait(), engine.run(pictures))) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.slow
def test_first_runs_of_two_threads_do_not_wait_for_each_other(bundles):
    """Without the engine's lock every eighth process or so hung for ever, in OpenVINO's binding."""
    folder = bundles['anchors', 1].folder
    for _ in range(10):
        command = [sys.executable, '-c', FIRST_RUNS, str(folder)]
        subprocess.run(command, check=True, timeout=60)
