"""The benchmark of positions: figures of known errors, box centres, the fit of deviations."""

import sys
from pathlib import Path

import numpy as np
import pytest
from placing import boxes_of, mounted, rig_of, staged

from cone_perception.classes import BLUE
from cone_perception.positions.rig import Mount
from cone_perception.replay.figures.positions import PositionErrors
from cone_perception.types import Positions

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'benchmarks'))

import fit_positions
import positions as benchmark
import renders


def test_table_and_honesty_of_errors_that_are_known():
    rng = np.random.default_rng(2)
    n = 30_000
    range_m = rng.uniform(0, 30, n)
    sigma_m = 0.01 * range_m
    depth_m = rng.normal(0, 1, n) * sigma_m
    nees = (depth_m / sigma_m) ** 2 / 2 + rng.chisquare(1, n) / 2
    source = np.where(np.arange(n) % 10 == 0, 2, 1)
    across_m = rng.normal(0, 0.02, n)
    frame = np.zeros(n, np.int64)
    errors = PositionErrors([0], frame, range_m, depth_m, across_m, sigma_m, nees, source)
    row = benchmark.table_rows(errors)['10 m']
    assert row['median'] == pytest.approx(0.0674, rel=0.06)
    assert row['lateral p90, cm'] == pytest.approx(3.29, rel=0.06)
    for each in benchmark.honesty(errors).values():
        assert each['in 1 sigma'] == pytest.approx(0.683, abs=0.03)
        assert each['in 2 sigma'] == pytest.approx(0.954, abs=0.02)
        assert each['NEES'] == pytest.approx(1, abs=0.06)
        assert each['by stereo'] == pytest.approx(0.9, abs=0.01)


def test_box_centres_place_cones_that_both_eyes_show():
    pair = staged([(6.0, 1.0, BLUE), (12.0, -1.0, BLUE)])
    settings = mounted()
    mount = Mount.of(settings)
    assert mount
    found, right = (boxes_of(each) for each in pair)
    feet_m = pair[0].feet_m('base')
    place = Positions(feet_m, np.zeros((2, 3, 3)), np.ones(2, np.int64), 'base_footprint')
    both = renders.DrivePair(*pair, found, place)
    rig = rig_of(pair, settings)
    seen = benchmark.by_centres(rig, mount, both, found, right)
    assert (np.abs(seen.xyz_m[:, :2] - feet_m[:, :2]) < 0.2).all()
    assert seen.source.tolist() == [1, 1]
    one = benchmark.by_centres(rig, mount, both, found, right[:1])
    assert sorted(one.source.tolist()) == [0, 1]


def test_the_fit_of_a_deviation_finds_its_parts():
    rng = np.random.default_rng(4)
    noise = rng.uniform(0, 0.1, 20_000)
    error = rng.normal(0, np.hypot(0.02, 2.5 * noise))
    error[:50] = 9  # which count as far out, not as what they are
    parts = [np.ones_like(noise), noise]
    floor, factor = fit_positions.fit_deviation(error, parts, (0.05, 1.0))
    assert floor == pytest.approx(0.02, rel=0.15)
    assert factor == pytest.approx(2.5, rel=0.1)
