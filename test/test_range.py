"""benchmarks/range.py: bins of depth, false alarms, and a run to its end with the shipped model."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from cone_perception.model_card import read_bundle
from cone_perception.types import Detections, Frame
from training.simulate.dataset import write_dataset
from training.simulate.renderer import Label
from training.simulate.scene import SimulateSettings

BENCHMARKS = str(Path(__file__).parents[1] / 'benchmarks')
BLUE, YELLOW = 0, 4


@pytest.fixture(scope='module')
def benchmark():
    """Import it as a script is seen: its folder comes first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        module = importlib.import_module('range')
        module.renders = importlib.import_module('renders')
        return module


def boxes(*rows: tuple[int, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32)
    class_id = table[:, 0].astype(np.int64)
    return Detections(table[:, 1:], np.full(len(table), 0.9, np.float32), class_id)


def test_a_box_on_any_cone_is_no_false_alarm_and_recall_asks_for_half_visible_ones(benchmark):
    labels = [
        Label(BLUE, (0, 0, 10, 20), 1.0, 4.0, 0, (4.0, 0, 0)),
        Label(BLUE, (100, 0, 110, 20), 1.0, 12.0, 0, (12.0, 0, 0)),
        Label(BLUE, (200, 0, 210, 20), 0.4, 13.0, 0, (13.0, 0, 0)),  # mostly hidden
        Label(YELLOW, (300, 0, 302, 3), 1.0, 50.0, 0, (50.0, 0, 0)),  # too small for a label
    ]
    picture = benchmark.renders.DrivePicture.of(Frame(np.zeros((720, 1280, 3), np.uint8)), labels)
    assert picture.counts.tolist() == [True, True, False, False]
    found = boxes(
        (BLUE, 0, 0, 10, 20),
        (YELLOW, 100, 0, 110, 20),  # another class
        (BLUE, 200, 0, 210, 20),
        (YELLOW, 300, 0, 302, 4),
        (BLUE, 400, 0, 410, 20),  # of nothing
        (BLUE, 7, 0, 17, 20),  # hardly touches one
    )
    figures = benchmark.Figures()
    benchmark.judge_drives(figures, 'whole', [(found, picture)])
    rows = figures.tables['drives: recall']
    assert [*rows['cones'].values()][:3] == [1, 0, 1]
    assert rows['whole']['0-5 m'] == 1.0
    assert np.isnan(rows['whole']['5-10 m'])
    assert rows['whole']['10-15 m'] == 0.0
    assert (rows['whole']['false'], rows['whole']['boxes']) == (2, 6)
    assert rows['whole']['precision'] == pytest.approx(4 / 6)
    assert rows['whole']['strict'] == pytest.approx(3 / 6)


def test_thresholds_of_all_views_are_raised_within_their_limits(benchmark):
    card = read_bundle().card
    assert all(
        benchmark.raised(card, 0.1).thresholds[name] == pytest.approx(score + 0.1)
        for name, score in card.thresholds.items()
    )
    assert set(benchmark.raised(card, -1.0).thresholds.values()) == {0.0}


def test_the_second_look_finds_more_and_everything_is_written(benchmark, tmp_path, capsys):
    write_dataset(tmp_path / 'set', SimulateSettings(), 3, {'train': 1, 'val': 1, 'test': 3})
    pictures = tmp_path / 'set' / 'test' / 'images'
    words = ['--views', 'whole', 'whole+horizon', '--seeds', '9100', '--pictures', '1']
    words += ['--near', '2', '--data', str(tmp_path / 'set'), '1280', '1', '--clip', str(pictures)]
    words += ['--region', '0', '0', '1', '0', '1', '0.01', '0', '0.01']
    words += ['--json', str(tmp_path / 'range.json'), '--page', str(tmp_path / 'range.html')]
    assert benchmark.main([*words, '--sheets', str(tmp_path / 'sheets')]) == 0
    tables = json.loads((tmp_path / 'range.json').read_text())['tables']
    recall, drives = tables['set: recall'], tables['drives: recall']
    assert recall['whole+horizon']['all boxes'] > recall['whole']['all boxes'] > 0.2
    assert drives['whole+horizon']['boxes'] > drives['whole']['boxes'] > 0
    ranking = next(rows for title, rows in tables.items() if title.startswith('set: mAP50'))
    found = ranking['whole+horizon, all classes']['all boxes']
    assert 0 < found['low'] <= found['value'] <= found['high'] < 1
    clip = tables['clip: boxes of orange_cone']['whole']
    assert clip['in the region'] == 0
    assert '| set: recall |' in capsys.readouterr().out
    assert 'set: 8-12 px, precision over recall' in (tmp_path / 'range.html').read_text()
    assert len([*(tmp_path / 'sheets').glob('*.png')]) == 2
