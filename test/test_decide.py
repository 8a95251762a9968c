from __future__ import annotations

import argparse
import importlib
import json
import math
import shlex
from pathlib import Path

import pytest

from cone_perception.accuracy.intervals import Interval
from cone_perception.files import from_json, to_json
from training.cli import SUBCOMMANDS
from training.judging.compare import Comparison, PairedDifference
from training.judging.decide import decide
from training.judging.signatures import MITIGATIONS
from training.judging.verdict import CampaignCandidate, Outcome, Verdict
from training.recipe.load import find_recipe
from training.recipe.recipe import Figures, Judging

SUCCESS = Figures(map50=0.71, map50_95=0.485, precision=0.84, recall=0.65)
PUBLISHED = {
    'single-stage': Figures(0.7081, 0.4846, 0.8401, 0.6542),
    'production': Figures(0.6655, 0.4613, 0.8031, 0.5786),
}
GOOD = {
    'map50': Interval(0.74, 0.72, 0.76),
    'map50_95': Interval(0.51, 0.49, 0.53),
    'precision': Interval(0.86, 0.85, 0.87),
    'recall': Interval(0.68, 0.66, 0.70),
}
JUDGING = Judging(success=SUCCESS)


def comparison(low, high, baseline='single-stage', strategy=None, warnings=()):
    """Candidate minus baseline with an interval of mAP50 as planted."""
    value = (low + high) / 2
    row = PairedDifference(
        name='map50',
        a=GOOD['map50'],
        b=Interval(0.74 - value, 0.7, 0.8),
        difference=Interval(value, low, high),
        a_by_seed=(0.74,),
        b_by_seed=(0.74 - value,),
        strategy=strategy,
    )
    return Comparison(
        a='two-stage',
        b=baseline,
        data_sha256='a' * 64,
        pictures=689,
        cones=12054,
        grouping='picture',
        groups=689,
        resamples=1000,
        seed=0,
        confidence=0.25,
        differences=(row,),
        warnings=tuple(warnings),
    )


def candidate(**facts):
    return CampaignCandidate(
        **{
            'name': 'two-stage',
            'figures': GOOD,
            'weights': {'two-stage': Path('two.pt'), 'single-stage': Path('one.pt')},
            'data': Path('datasets/FSOCO-12'),
            'pretraining': Path('datasets/cone-detector'),
            **facts,
        }
    )


@pytest.mark.parametrize(
    'low, high, outcome, code, deploy',
    [
        (0.002, 0.030, Outcome.BETTER, 0, 'two-stage'),
        (-0.004, 0.009, Outcome.EQUAL, 10, 'single-stage'),
        (0.002, 0.009, Outcome.EQUAL, 10, 'single-stage'),
        (-0.030, -0.002, Outcome.WORSE, 11, 'single-stage'),
        (-0.011, 0.011, Outcome.INCONCLUSIVE, 12, 'single-stage'),
        (math.nan, math.nan, Outcome.INCONCLUSIVE, 12, 'single-stage'),
    ],
)
def test_every_outcome_has_its_code_and_what_to_deploy(low, high, outcome, code, deploy):
    verdict = decide(candidate(), [comparison(low, high)], JUDGING)
    assert (Outcome.of(verdict.outcome), verdict.deploy) == (outcome, deploy)
    assert verdict.exit_code == outcome == code
    assert verdict.recommendation in verdict.sentence
    assert to_json(from_json(Verdict, json.loads(to_json(verdict)), 'it')) == to_json(verdict)


def test_better_is_exported_with_a_command_that_can_be_typed():
    verdict = decide(candidate(), [comparison(0.002, 0.03)], JUDGING)
    export = verdict.next_steps[0].partition(': ')[2]
    assert shlex.split(export) == [
        *('cone-training', 'export', 'two.pt'),
        *('--data', 'datasets/FSOCO-12', '--out', 'models/two-stage'),
    ]
    assert any('cone-training evaluate models/two-stage' in s for s in verdict.next_steps)


def test_gain_that_is_proven_but_perhaps_small_is_said_to_be_so():
    small = decide(candidate(), [comparison(0.002, 0.03)], JUDGING)
    large = decide(candidate(), [comparison(0.012, 0.03)], JUDGING)
    assert 'is not proven' in small.reasons[0]
    assert 'all of it above the 0.01' in large.reasons[0]


def test_missed_gate_keeps_the_baseline_and_is_no_success_to_a_script():
    figures = {**GOOD, 'precision': Interval(0.82, 0.81, 0.83)}
    verdict = decide(candidate(figures=figures), [comparison(0.002, 0.03)], JUDGING)
    assert verdict.outcome == Outcome.BETTER_BUT_BELOW_TARGET.label
    assert verdict.exit_code != 0
    assert verdict.deploy == 'single-stage'
    assert 'misses the success table: precision' in verdict.sentence
    assert [gate.status for gate in verdict.gates] == ['passed', 'passed', 'failed', 'passed']


@pytest.mark.parametrize(
    'interval, status',
    [
        (Interval(0.72, 0.711, 0.73), 'passed'),
        (Interval(0.72, 0.709, 0.73), 'passed, unproven'),
        (Interval(0.71, 0.70, 0.72), 'failed, unproven'),
        (Interval(0.70, 0.69, 0.715), 'failed, unproven'),
        (Interval(0.70, 0.69, 0.709), 'failed'),
        (Interval(math.nan, math.nan, math.nan), 'failed, unproven'),
    ],
)
def test_gate_goes_by_the_figure_and_says_whether_the_interval_agrees(interval, status):
    judging = Judging(success=Figures(map50=0.71))
    verdict = decide(candidate(figures={'map50': interval}), [comparison(0.002, 0.03)], judging)
    (gate,) = verdict.gates
    assert gate.status == status
    assert any(f'> 0.71: {status}.' in reason for reason in verdict.reasons)
    passed = status.startswith('passed')
    assert (verdict.outcome == Outcome.BETTER.label) == passed


def test_without_a_success_table_there_are_no_gates():
    assert decide(candidate(), [comparison(0.002, 0.03)], Judging()).gates == ()


def test_published_baseline_decides_where_none_was_trained_and_is_labelled():
    verdict = decide(candidate(), [], Judging(success=SUCCESS, published=PUBLISHED))
    assert verdict.outcome == Outcome.BETTER.label  # 0.72 to 0.76 against 0.7081
    assert 'single-stage (published, not paired)' in verdict.sentence
    first, second = verdict.against
    assert (first.baseline, first.published) == ('single-stage', True)
    assert first.difference.low == pytest.approx(0.72 - 0.7081)
    assert second.label == 'production (published, not paired)'
    assert any('taken as exact' in reason for reason in verdict.reasons)
    assert any('--baseline single-stage=WEIGHTS' in step for step in verdict.next_steps)


def test_published_figure_gives_way_to_the_paired_one():
    judging = Judging(published=PUBLISHED)
    pairs = [comparison(-0.03, -0.01, 'production'), comparison(0.002, 0.03)]
    verdict = decide(candidate(), pairs, judging)
    assert [(line.baseline, line.published) for line in verdict.against] == [
        ('single-stage', False),
        ('production', False),
    ]
    assert verdict.outcome == Outcome.BETTER.label
    assert any('production' in reason and 'worse' in reason for reason in verdict.reasons)
    assert 'but not in place of production' in verdict.sentence


def test_without_a_baseline_nothing_is_compared():
    verdict = decide(candidate(), [comparison(0.1, 0.2, 'production')], Judging())
    assert (verdict.outcome, verdict.exit_code) == (Outcome.NOT_COMPARED.label, 13)
    assert not any('export' in step for step in verdict.next_steps)
    assert any('--baseline single-stage=WEIGHTS' in step for step in verdict.next_steps)


def test_one_training_judges_the_weights_and_says_so():
    verdict = decide(candidate(), [comparison(0.002, 0.03)], JUDGING)
    assert verdict.against[0].subject == 'weights'
    assert any('not the strategy' in reason for reason in verdict.reasons)


def test_several_trainings_judge_the_strategy_by_the_wider_interval():
    pair = comparison(0.002, 0.03, strategy=Interval(0.016, -0.02, 0.05))
    verdict = decide(candidate(seeds=2), [pair], JUDGING)
    assert verdict.outcome == Outcome.INCONCLUSIVE.label
    assert verdict.against[0].subject == 'strategy'
    assert verdict.against[0].difference == pair['map50'].strategy


def test_inconclusive_asks_for_seeds_and_says_how_many_pictures_it_would_take():
    verdict = decide(candidate(), [comparison(-0.006, 0.016)], JUDGING)
    assert any('seeds=[0,1,2]' in step for step in verdict.next_steps)
    # Half the width is 0.011, the difference 0.005: 689 x 2.2^2.
    assert any('about 3335 test pictures' in step for step in verdict.next_steps)
    published = decide(
        candidate(figures={'map50': Interval(0.71, 0.70, 0.72)}), [], Judging(published=PUBLISHED)
    )
    assert published.outcome == Outcome.INCONCLUSIVE.label
    assert any('--baseline single-stage=WEIGHTS' in step for step in published.next_steps)


@pytest.mark.parametrize('signature', list(MITIGATIONS))
def test_worse_leads_to_the_recipes_of_the_signature(signature):
    signatures = (signature,) if signature else ()
    verdict = decide(candidate(signatures=signatures), [comparison(-0.03, -0.01)], JUDGING)
    tried = [step for step in verdict.next_steps if step.startswith('Try ')]
    assert [step.split()[1].rstrip(':') for step in tried] == list(MITIGATIONS[signature])
    gap = 'cone-training data gap datasets/cone-detector datasets/FSOCO-12'
    assert any(gap in step for step in verdict.next_steps) == (signature in ('mismatch', ''))


def test_mitigation_of_the_fine_tuning_keeps_the_first_stage():
    facts = {'signatures': ('overfit',), 'first_stage': Path('stage 1/best.pt')}
    steps = decide(candidate(**facts), [comparison(-0.03, -0.01)], JUDGING).next_steps
    higher = next(step for step in steps if 'higher_lr' in step)
    assert shlex.split(higher.partition(': ')[2])[2:] == [
        *('higher_lr', 'stage1.epochs=0', 'model=stage 1/best.pt'),
    ]
    shorter = next(step for step in steps if 'shorter_stage1' in step)
    assert 'model=' not in shorter


@pytest.mark.parametrize(
    'recipe', sorted({name for names in MITIGATIONS.values() for name in names})
)
def test_recipes_that_are_recommended_are_shipped(recipe):
    assert find_recipe(recipe).is_file()


def test_commands_of_the_next_steps_are_ones_that_exist():
    pytest.importorskip('onnxruntime')
    judging = Judging(success=SUCCESS)
    planted = [
        (candidate(), comparison(0.002, 0.03)),
        (candidate(), comparison(-0.006, 0.016)),
        (candidate(first_stage=Path('best.pt')), comparison(-0.03, -0.01)),
        (candidate(signatures=('mismatch', 'forgetting')), comparison(-0.03, -0.01)),
    ]
    steps = [s for who, pair in planted for s in decide(who, [pair], judging).next_steps]
    typed = [shlex.split(s[s.index('cone-training') :]) for s in steps if 'cone-training' in s]
    assert {words[1] for words in typed} == {'export', 'evaluate', 'two-stage', 'data'}
    for _, command, *arguments in typed:
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(SUBCOMMANDS[command][0]).add_arguments(parser)
        parser.parse_args(arguments)


def test_limits_of_the_comparison_are_among_the_reasons():
    pair = comparison(0.002, 0.03, warnings=['Only 7 groups.'])
    assert 'Only 7 groups.' in decide(candidate(), [pair], JUDGING).reasons
