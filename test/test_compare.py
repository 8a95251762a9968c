from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from cone_perception.accuracy.average_precision import rank
from cone_perception.accuracy.intervals import Interval, draw, t_quantile
from cone_perception.accuracy.matching import IOU_THRESHOLDS
from cone_perception.errors import DataError
from cone_perception.files import to_json
from training.cli import main
from training.judging.compare import Comparison, compare, meaning, own_figures
from training.judging.evaluation import Evaluation, Origin, save_evaluation
from training.judging.metrics import ResampledFigures, metrics
from training.judging.verdict import Outcome, outcome_of

CLASSES = ('blue_cone', 'yellow_cone')
ORIGIN = Origin('best.pt', '0' * 64, 'cones', 'a' * 64, 'test', (640, 640), 'anchors', 'none')


def evaluation(truths, found, pictures, names=None, classes=CLASSES, origin=ORIGIN):
    """truths: (T, 3) picture, class, height. found: (D, 5) picture, class, score, cone, IoU."""
    truths = np.array(truths, np.float64).reshape(-1, 3)
    found = np.array(found, np.float64).reshape(-1, 5)
    found = found[np.lexsort((-found[:, 2], found[:, 0]))]
    cone, overlap = found[:, 3].astype(np.int64), found[:, 4]
    match = np.where((overlap[:, None] >= IOU_THRESHOLDS) & (cone[:, None] >= 0), cone[:, None], -1)

    def boxes(height):
        return np.stack([0 * height, 0 * height, height, height], axis=1).astype(np.float32)

    return Evaluation(
        origin=origin,
        class_names=classes,
        image_names=tuple(names or (f'{i:05}.jpg' for i in range(pictures))),
        image_size_px=np.tile([1280, 720], (pictures, 1)),
        band_px=np.full(pictures, np.nan),
        detection_image=found[:, 0].astype(np.int64),
        detection_class=found[:, 1].astype(np.int64),
        detection_score=found[:, 2].astype(np.float32),
        detection_box_px=boxes(np.where(cone >= 0, truths[cone, 2] if len(truths) else 0, 20)),
        detection_match=match,
        detection_overlaps=match[:, 0],
        truth_image=truths[:, 0].astype(np.int64),
        truth_class=truths[:, 1].astype(np.int64),
        truth_box_px=boxes(truths[:, 2]),
    )


def pictures_of(seed, count, cones=4, classes=2):
    """Cones of `count` pictures: (T, 3)."""
    rng = np.random.default_rng(seed)
    picture, label = np.repeat(np.arange(count), cones), rng.integers(0, classes, count * cones)
    return np.column_stack([picture, label, np.exp(rng.normal(3, 1, len(picture)))])


def found_by(seed, truths, skill, false_per_picture=3):
    """(D, 5) boxes that a model of this skill (share of cones found) finds."""
    rng = np.random.default_rng(seed)
    hit = np.flatnonzero(rng.random(len(truths)) < skill)
    score, overlap = rng.beta(4, 2, len(hit)), rng.uniform(0.5, 1, len(hit))
    right = np.column_stack([truths[hit, :2], score, hit, overlap])
    pictures, classes = truths[:, :2].max(axis=0) + 1
    count = int(pictures) * false_per_picture
    place, label = rng.integers(0, pictures, count), rng.integers(0, classes, count)
    wrong = np.column_stack(
        [place, label, rng.beta(1, 3, count), np.full(count, -1), np.zeros(count)]
    )
    return np.concatenate([right, wrong])


def model(seed, skill, count=40, data=0, **facts):
    truths = pictures_of(data, count)
    return evaluation(truths, found_by(seed, truths, skill), count, **facts)


def figures_of(found):
    """All figures of `Metrics` in the order of ResampledFigures.names."""
    return [
        *found.overall.values(),
        *(each.ap50 for each in found.per_class.values()),
        *(band.map50 for band in found.bands),
    ]


@pytest.fixture(scope='module')
def pair():
    return model(1, 0.85, 40), model(2, 0.6, 40)


@pytest.fixture(scope='module')
def comparison(pair):
    return compare(*pair, resamples=100, names=('two', 'one'))


def test_figures_of_resampled_pictures_are_those_of_the_evaluation(pair):
    weights = np.concatenate([np.ones((1, 40), np.int32), *draw(np.arange(40), 6, seed=3)])
    found = ResampledFigures(pair[0], 0.4)(weights)
    for row, weight in zip(found, weights, strict=True):
        expected = figures_of(metrics(pair[0], weight, confidence=0.4))
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_figures_with_equal_scores_and_a_class_that_is_rare():
    truths = [[0, 0, 30], [1, 0, 8], [2, 1, 30], [2, 0, 100]]
    found = [[0, 0, 0.5, 0, 0.9], [1, 0, 0.5, 1, 0.6], [1, 0, 0.5, -1, 0], [0, 1, 0.5, -1, 0]]
    found += [[2, 0, 0.7, 3, 0.8], [0, 0, 0.7, -1, 0]]
    each = evaluation(truths, found, 3)
    weights = np.array([[1, 1, 1], [3, 0, 0], [0, 2, 1], [0, 0, 3], [1, 2, 0]], np.int32)
    for row, weight in zip(ResampledFigures(each, 0.25)(weights), weights, strict=True):
        np.testing.assert_allclose(row, figures_of(metrics(each, weight)), rtol=0, atol=1e-12)


def test_resampled_map50_by_hand():
    # Picture 0: its cone is found with 0.9. Picture 1: its cone is missed, 0.95 is wrong.
    each = evaluation(
        [[0, 0, 30], [1, 0, 30]], [[0, 0, 0.9, 0, 1], [1, 0, 0.95, -1, 0]], 2, classes=('cone',)
    )
    weights = np.array([[1, 1], [2, 0], [0, 2], [2, 1]], np.int32)
    # Twice picture 0: precision 1 up to recall 1, so all points but the last. Both once: precision
    # 1/2 up to recall 1/2, read at 0, 0.01 .. 0.49. Picture 0 twice: 2/3 up to 2/3. The first
    # point counts half in the trapezoids.
    expected = [(50 - 0.5) * 0.5 / 100, (100 - 0.5) / 100, 0, (67 - 0.5) * (2 / 3) / 100]
    np.testing.assert_allclose(ResampledFigures(each, 0.25)(weights)[:, 0], expected, atol=1e-12)
    # One resample in four is twice the one picture, one in four twice the other.
    own = own_figures('a', [each], resamples=400)['map50']
    assert own == Interval(pytest.approx(0.2475), 0.0, pytest.approx(0.995))


def test_figures_of_one_arm_alone_are_those_beside_another(pair, comparison):
    alone = own_figures('two', [pair[0]], resamples=100)
    assert alone == {row.name: row.a for row in comparison.differences}
    other = replace(pair[0], origin=replace(ORIGIN, data_sha256='b' * 64))
    with pytest.raises(DataError):
        own_figures('two', [pair[0], other])


def test_identical_evaluations_differ_by_exactly_nothing(pair):
    same = compare(pair[0], pair[0], resamples=100)
    for row in same.differences:
        assert (row.difference.value, row.difference.low, row.difference.high) == (0, 0, 0)
    assert outcome_of(same.deciding, 0.01) is Outcome.EQUAL


def test_planted_difference_is_found_with_its_sign(pair, comparison):
    found = comparison['map50'].difference
    expected = metrics(pair[0]).map50 - metrics(pair[1]).map50
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert 0 < found.low < expected < found.high
    back = compare(pair[1], pair[0], resamples=100)['map50'].difference
    assert (back.value, back.low) == (pytest.approx(-found.value), pytest.approx(-found.high))


def test_pairing_narrows_the_interval_of_models_that_err_on_the_same_pictures():
    # Half of the pictures are hard, for both.
    truths = pictures_of(0, 80)
    found = found_by(1, truths, 0.95, false_per_picture=1)
    hard = found[:, 0] % 2 == 1
    found = found[~hard | (np.random.default_rng(0).random(len(found)) < 0.3)]
    better = evaluation(truths, found, 80)
    worse = evaluation(truths, np.delete(found, slice(0, None, 25), axis=0), 80)
    row = compare(better, worse, resamples=300)['map50']
    paired = row.difference.high - row.difference.low
    assert paired < 0.5 * math.hypot(row.a.high - row.a.low, row.b.high - row.b.low)


class OneClassFigures:
    """Two of an evaluation's figures, of one class: cheap enough to simulate with."""

    names = ('map50', 'recall_fixed')

    def __init__(self, evaluation, confidence):
        self.only, self.confidence = rank(evaluation.matches)[0], confidence

    def __call__(self, weights):
        truths, _, correct = self.only.counts(weights, self.confidence)
        return np.stack([self.only.average_precisions(weights, 1)[:, 0], correct / truths], axis=1)


def test_interval_covers_the_true_difference_in_about_95_of_100_data_sets(monkeypatch):
    monkeypatch.setattr('training.judging.compare.ResampledFigures', OneClassFigures)
    skills = (0.8, 0.7)
    once = np.ones((1, 4000), np.int32)
    large = [
        OneClassFigures(one_class(9, i, skill, 4000), 0.25)(once)[0]
        for i, skill in enumerate(skills)
    ]
    truth = large[0] - large[1]
    held = []
    for data in range(150):
        arms = [one_class(data, 1000 + data + 500 * i, skill, 40) for i, skill in enumerate(skills)]
        found = compare(*arms, resamples=200)
        for value, row in zip(truth, found.differences, strict=True):
            held.append(row.difference.low <= value <= row.difference.high)
    assert 0.91 <= np.mean(held) <= 0.98


def one_class(data, seed, skill, count):
    truths = pictures_of(data, count, classes=1)
    return evaluation(truths, found_by(seed, truths, skill), count, classes=('cone',))


def test_blocks_of_copies_widen_the_interval():
    # 30 pictures, each there four times in a row: as much evidence as 30 pictures.
    truths, copies = pictures_of(0, 30), 4
    found = [found_by(seed, truths, skill) for seed, skill in ((1, 0.8), (2, 0.7))]
    names = [f'amz_{i:05}.jpg' for i in range(30 * copies)]

    def copied(rows, with_cone):
        parts = [rows.copy() for _ in range(copies)]
        for copy, part in enumerate(parts):
            part[:, 0] = part[:, 0] * copies + copy
            if with_cone:
                part[:, 3] = np.where(part[:, 3] >= 0, part[:, 3] + copy * len(truths), -1)
        return np.concatenate(parts)

    arms = [
        evaluation(copied(truths, False), copied(rows, True), 30 * copies, names=names)
        for rows in found
    ]
    by_picture = compare(*arms, resamples=200)
    by_block = compare(*arms, resamples=200, block=copies)
    assert (by_picture.groups, by_block.groups) == (120, 30)
    assert 'picture' in by_picture.grouping
    assert 'block of 4' in by_block.grouping
    ratio = _width(by_block) / _width(by_picture)
    assert 1.5 < ratio < 2.6  # the root of four copies


def _width(comparison):
    found = comparison['map50'].difference
    return found.high - found.low


def test_few_groups_are_warned_of():
    arms = [model(seed, 0.8, count=24) for seed in (1, 2)]
    assert not any(
        'groups' in text or 'learnt' in text for text in compare(*arms, resamples=100).warnings
    )
    few = compare(*arms, resamples=100, block=8)
    assert few.groups == 3
    assert any('Only 3 groups' in text for text in few.warnings)


def test_two_models_that_find_nothing_are_not_called_equal_without_a_word():
    arms = [model(seed, 0.0) for seed in (1, 2)]
    assert any('neither has learnt' in text for text in compare(*arms, resamples=100).warnings)


def test_resampling_is_repeatable(pair, comparison):
    again = compare(*pair, resamples=100, names=('two', 'one'))
    assert again == comparison
    assert compare(*pair, resamples=100, seed=1)['map50'] != comparison['map50']


def test_seeds_of_an_arm_share_the_resample_and_are_averaged(pair, comparison):
    twice = compare([pair[0]] * 2, [pair[1]] * 2, resamples=100)
    row = twice['map50']
    assert row.difference == Interval(*map(pytest.approx, _numbers(comparison['map50'].difference)))
    other = compare([pair[0], pair[1]], pair[1], resamples=100)['map50']
    assert other.a.value == pytest.approx(sum(metrics(each).map50 for each in pair) / 2)
    assert other.a_by_seed == pytest.approx([metrics(each).map50 for each in pair])
    assert other.strategy is None


def _numbers(found):
    return found.value, found.low, found.high


def test_trainings_that_scatter_widen_the_interval_over_trainings():
    first = [model(1, 0.9), model(2, 0.8)]
    second = [model(3, 0.7), model(4, 0.6)]
    found = compare(first, second, resamples=100)
    row = found['map50']
    assert found.deciding == row.strategy
    between = [np.var(row.a_by_seed, ddof=1) / 2, np.var(row.b_by_seed, ddof=1) / 2]
    half = (row.strategy.high - row.strategy.low) / 2
    # At least the seeds' own t interval with two degrees of freedom, at most one.
    assert 3.0 * math.sqrt(sum(between)) < half < 12.71 * math.sqrt(sum(between) + 0.03**2)
    assert half > (row.difference.high - row.difference.low) / 2
    assert any('2 and 2 trainings' in text for text in found.warnings)


@pytest.mark.parametrize(
    'freedom, expected', [(1, 12.7062), (2, 4.30265), (5, 2.57058), (30, 2.04227), (1e5, 1.95999)]
)
def test_t_quantile_is_that_of_the_tables(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, rel=1e-4)


def test_one_training_is_said_to_judge_these_weights_only(comparison):
    assert any('One training of two and of one' in text for text in comparison.warnings)
    assert 'this pair of weights' in meaning(comparison, 0.01)


@pytest.mark.parametrize(
    'facts, said',
    [
        (
            {'origin': replace(ORIGIN, data_sha256='b' * 64, data='elsewhere')},
            r'other pictures or labels.*elsewhere',
        ),
        ({'count': 39}, r'1 pictures only in a, 0 only in b, as 00039.jpg'),
        ({'classes': CLASSES[::-1]}, 'classes blue_cone, yellow_cone and yellow_cone'),
    ],
)
def test_other_labels_pictures_and_classes_are_refused(pair, facts, said):
    with pytest.raises(DataError, match=said):
        compare(pair[0], model(2, 0.6, **facts))


def test_data_of_a_further_seed_is_checked_too(pair):
    other = replace(pair[0], origin=replace(ORIGIN, data_sha256='b' * 64))
    with pytest.raises(DataError):
        compare([pair[0], other], pair[1])


def test_other_network_input_is_noted(pair):
    other = replace(pair[1], origin=replace(ORIGIN, imgsz=(320, 320)))
    warnings = compare(pair[0], other, resamples=100).warnings
    assert any(text.startswith('imgsz is not the same') for text in warnings)


def test_class_without_a_cone_has_no_figure_and_harms_no_other():
    truths = pictures_of(0, 20, classes=1)
    arms = [evaluation(truths, found_by(seed, truths, 0.8), 20) for seed in (1, 2)]
    found = compare(*arms, resamples=100)
    assert all(map(math.isnan, _numbers(found['map50 yellow_cone'].difference)))
    assert found['map50'].difference == found['map50 blue_cone'].difference
    stored = json.loads(to_json(found))
    assert math.isnan(Comparison.from_json(stored)['map50 yellow_cone'].a.low)


def test_stored_comparison_is_read_back(comparison):
    stored = json.loads(to_json({**asdict(comparison), 'meaning': 'for people'}))
    assert Comparison.from_json(stored) == comparison


def test_published_figure_is_subtracted_from_the_models_own_interval():
    found = Interval(0.73, 0.72, 0.75) - 0.70
    assert _numbers(found) == pytest.approx((0.03, 0.02, 0.05))


@pytest.mark.parametrize(
    'low, high, expected',
    [
        (0.001, 0.02, Outcome.BETTER),
        (0.011, 0.02, Outcome.BETTER),
        (-0.02, -0.001, Outcome.WORSE),
        (-0.01, 0.01, Outcome.EQUAL),
        (0.001, 0.009, Outcome.EQUAL),
        (-0.009, -0.001, Outcome.EQUAL),
        (-0.011, 0.011, Outcome.INCONCLUSIVE),
        (-0.001, 0.02, Outcome.INCONCLUSIVE),
        (0.0, 0.02, Outcome.INCONCLUSIVE),
        (math.nan, math.nan, Outcome.INCONCLUSIVE),
    ],
)
def test_outcome_by_interval(low, high, expected):
    assert outcome_of(Interval((low + high) / 2, low, high), 0.01) is expected


@pytest.fixture
def folders(pair, tmp_path):
    for name, each in zip(('two', 'one'), pair, strict=True):
        save_evaluation(each, tmp_path / name, metrics(each))
    return tmp_path


def test_command_prints_a_table_and_writes_figures_and_plot(folders, capsys):
    out, plot = folders / 'out' / 'comparison.json', folders / 'plot.html'
    arguments = [f'two-stage={folders / "two"}', str(folders / 'one'), '--resamples', '100']
    arguments += ['--published', 'production=0.2', '--json', str(out), '--plot', str(plot)]
    assert main(['compare', *arguments]) == 0
    printed = capsys.readouterr().out
    assert 'two-stage against' in printed
    assert 'each a picture' in printed
    assert 'All boxes where a row names no height' in printed
    assert f'two-stage is better than {folders / "one"}' in printed
    assert 'production (published, not paired)' in printed
    stored = json.loads(out.read_text())
    first = Comparison.from_json(stored['comparisons'][0])
    assert f'{first["map50"].difference.low:+.4f} to' in printed
    assert stored['published']['production']['value'] == pytest.approx(first['map50'].a.value - 0.2)
    assert f'two-stage minus {folders / "one"}' in plot.read_text()
    assert 'mAP50-95' in plot.read_text()


def test_command_takes_seeds_joined_by_commas_and_folders_at_home(folders, capsys, monkeypatch):
    monkeypatch.setenv('HOME', str(folders))
    both = f'{folders / "two"},{folders / "one"}'
    assert main(['compare', f'x={both}', 'y=~/two,~/one', '--resamples', '100']) == 0
    printed = capsys.readouterr().out
    assert 'mAP50 by seed, x: ' in printed
    assert 'over pictures and trainings' in printed


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['{}/two'], 'nothing to compare with'),
        (['{}/two', '{}/none'], 'holds no evaluation'),
        (['{}/two', '--published', 'production'], 'production=0.6655'),
        (['{}/two', '--published', 'production=66'], 'production=0.6655'),
        (['{}/two', '{}/one', '--resamples', '5'], 'at least 100'),
        (['{}/two', '{}/one', '--plot', 'differences.svg'], 'name it .html'),
    ],
)
def test_command_refuses_in_a_line(folders, capsys, arguments, said):
    assert main(['compare', *(text.format(folders) for text in arguments)]) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count('\n') == 1
