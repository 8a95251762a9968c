"""The verdict of a campaign: comparisons and figures in, what to deploy and what to do next out.

Pure: reads no file, draws no number. The rule and its consequences: docs/decisions/verdict.md.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from training.judging.compare import Comparison
from training.judging.metrics import PRIMARY, TITLES
from training.judging.signatures import MITIGATIONS
from training.judging.verdict import (
    Against,
    CampaignCandidate,
    Gate,
    Outcome,
    Verdict,
    finding,
    outcome_of,
)
from training.recipe.recipe import BASELINE, Judging

FINE_TUNING_ONLY = ('higher_lr', 'longer', 'lower_lr', 'cosine')
"""Recipes whose first stage is the plain one: its weights need not be trained again."""


def decide(
    candidate: CampaignCandidate,
    comparisons: Sequence[Comparison],
    judging: Judging,
    baseline: str = BASELINE,
) -> Verdict:
    """Judge a candidate.

    comparisons: candidate minus one baseline each; `Comparison.b` is the baseline's name.
    baseline: the one that decides, the simpler way to the same model: paired if it is among the
    comparisons, else as published in `judging`. Without either the outcome is NOT_COMPARED.
    """
    against = list(_against(candidate, comparisons, judging))
    against.sort(key=lambda line: line.baseline != baseline)
    gates = tuple(
        Gate.of(metric, limit, candidate.figures[metric])
        for metric, limit in asdict(judging.success).items()
        if limit is not None
    )
    failed = ', '.join(TITLES[gate.metric] for gate in gates if not gate.passed)
    deciding = against[0] if against and against[0].baseline == baseline else None
    if deciding is None:
        outcome = Outcome.NOT_COMPARED
        found = f'{candidate.name} was not compared with a baseline.'
        why = f'There is no evaluation of {baseline}, and no published figure of it in the recipe.'
        limits = []
    else:
        outcome = Outcome.of(deciding.outcome)
        found = finding(candidate.name, deciding.label, deciding.difference, judging.margin)
        why, *limits = _rule(candidate, deciding, judging.margin)
        if outcome is Outcome.BETTER and failed:
            outcome = Outcome.BETTER_BUT_BELOW_TARGET
            found += f' It misses the success table: {failed}.'
    deploy = candidate.name if outcome is Outcome.BETTER else baseline
    reasons = [
        why,
        *(f'{line}.' for line in (*against, *gates)),
        *limits,
        *(warning for comparison in comparisons for warning in comparison.warnings),
    ]
    recommendation = _recommendation(candidate, outcome, against, baseline)
    return Verdict(
        outcome=outcome.label,
        exit_code=int(outcome),
        sentence=f'{found} {recommendation}',
        reasons=tuple(dict.fromkeys(reasons)),
        gates=gates,
        against=tuple(against),
        deploy=deploy,
        recommendation=recommendation,
        next_steps=tuple(_next_steps(candidate, outcome, deciding, deploy, comparisons)),
    )


def _against(
    candidate: CampaignCandidate, comparisons: Sequence[Comparison], judging: Judging
) -> Iterator[Against]:
    """Yield every baseline: those that were paired, then those that are only published."""
    for each in comparisons:
        row, found = each[PRIMARY], each.deciding
        says = outcome_of(found, judging.margin).label
        subject: Literal['weights', 'strategy'] = 'strategy' if row.strategy else 'weights'
        yield Against(each.b, row.a.value, row.b.value, found, says, False, subject, each.b)
    paired = {each.b for each in comparisons}
    for name, figures in judging.published.items():
        if figures.map50 is not None and name not in paired:
            own = candidate.figures[PRIMARY]
            found = own - figures.map50
            says = outcome_of(found, judging.margin).label
            label = f'{name} (published, not paired)'
            yield Against(name, own.value, figures.map50, found, says, True, 'weights', label)


def _rule(candidate: CampaignCandidate, deciding: Against, margin: float) -> Iterator[str]:
    """Yield what the interval says by the rule, and what it speaks of."""
    found = deciding.difference
    inside = f'-{margin:g} to +{margin:g}'
    proven = (
        f', and all of it above the {margin:g} that count as equal'
        if found.low > margin
        else f'; that the gain exceeds the {margin:g} that count as equal is not proven'
    )
    rule = {
        Outcome.BETTER: f'lies above 0{proven}',
        Outcome.WORSE: 'lies below 0',
        Outcome.EQUAL: f'lies within {inside}',
        Outcome.INCONCLUSIVE: (
            f'holds 0 and leaves {inside}: better, equal and worse remain possible'
        ),
    }[Outcome.of(deciding.outcome)]
    if math.isnan(found.value):
        yield 'The difference is not defined: no cone was there to be judged.'
    else:
        yield f'The 95 % interval of the difference {rule}.'
    if deciding.published:
        yield (
            f'{deciding.label}: the figure is taken as exact. Its own error, and what its pictures '
            'have in common with these, are unknown: weaker evidence than a paired comparison.'
        )
    elif deciding.subject == 'strategy':
        yield (
            f'Judged over pictures and trainings ({candidate.seeds} of the candidate): this speaks '
            'of the strategy.'
        )
    else:
        yield 'One training an arm: this judges this pair of weights, not the strategy.'


def _recommendation(
    candidate: CampaignCandidate, outcome: Outcome, against: Sequence[Against], baseline: str
) -> str:
    better = ' or '.join(line.label for line in against if line.outcome == Outcome.WORSE.label)
    if outcome is Outcome.BETTER:
        but = f', but not in place of {better}: it is worse than that' if better else ''
        return f'Deploy {candidate.name}{but}.'
    why = {
        Outcome.BETTER_BUT_BELOW_TARGET: (
            ': what was set as success before the training is not reached'
        ),
        Outcome.EQUAL: ': it is simpler, and nothing is lost',
        Outcome.WORSE: '',
        Outcome.INCONCLUSIVE: ': it is simpler, and nothing is shown to be lost',
        Outcome.NOT_COMPARED: ' until it has been compared',
    }[outcome]
    return f'Keep {baseline}{why}.'


def _next_steps(
    candidate: CampaignCandidate,
    outcome: Outcome,
    deciding: Against | None,
    deploy: str,
    comparisons: Sequence[Comparison],
) -> Iterator[str]:
    """Yield sentences, and commands to be typed."""
    if deploy in candidate.weights and outcome is not Outcome.NOT_COMPARED:
        bundle, weights = f'models/{deploy}', candidate.weights[deploy]
        words: list[str | Path] = ['export', weights, '--data', candidate.data or 'DATASET']
        if candidate.card and candidate.card.parent in weights.parents:  # else trained elsewhere
            words += ['--card', candidate.card]
        yield f'Export {deploy} to INT8: {_command(*words)} --out {bundle}'
        evaluate = _command('evaluate', bundle, *words[2:4])
        yield f'Judge what drives: {evaluate} --operating-point card'
        launch = f'ros2 launch cone_perception detector.launch.py model:={bundle}'
        yield f'Deploy: copy {bundle} to the car and start {launch}'
    if outcome is Outcome.INCONCLUSIVE and deciding:
        yield from _more_evidence(candidate, deciding, comparisons)
    if outcome in (Outcome.WORSE, Outcome.BETTER_BUT_BELOW_TARGET) or (
        outcome is Outcome.INCONCLUSIVE and candidate.signatures
    ):
        yield from _mitigations(candidate)
    if outcome is Outcome.EQUAL:
        yield 'Write it down: pre-training brought nothing that counts on this benchmark.'
    if outcome is Outcome.NOT_COMPARED:
        yield (
            'Give the baseline: its weights as --baseline single-stage=WEIGHTS, or its figures as '
            'judging.published in the recipe.'
        )
    if deciding and deciding.published:
        yield (
            'Pair it: evaluate the baseline itself on the same pictures (--baseline '
            f'{deciding.baseline}=WEIGHTS, or train it: baseline in the recipe). That is stronger '
            'evidence, and the interval of a paired difference is usually narrower.'
        )


def _mitigations(candidate: CampaignCandidate) -> Iterator[str]:
    names = candidate.signatures or ('',)
    if 'mismatch' in names or not candidate.signatures:
        sets = (candidate.pretraining or 'PRETRAINING_SET', candidate.data or 'TARGET_SET')
        yield f'See how far the data sets are apart: {_command("data", "gap", *sets)}'
    for recipe in dict.fromkeys(recipe for name in names for recipe in MITIGATIONS[name]):
        words = ['two-stage', recipe]
        if recipe in FINE_TUNING_ONLY and candidate.first_stage:
            words += ['stage1.epochs=0', f'model={candidate.first_stage}']
        yield f'Try {recipe}: {_command(*words)}'
    if 'mismatch' in names:
        yield 'Pre-train on another data set, or stay with single-stage training.'


def _more_evidence(
    candidate: CampaignCandidate, deciding: Against, comparisons: Sequence[Comparison]
) -> Iterator[str]:
    if not deciding.published and deciding.subject == 'weights':
        seeds = _command('two-stage', candidate.recipe, 'seeds=[0,1,2]', '--name', 'three-seeds')
        yield f'Learn how much a seed matters: {seeds}'
    size, half = abs(deciding.difference.value), deciding.difference.width / 2
    pictures = next((c.pictures for c in comparisons if c.b == deciding.baseline), 0)
    if pictures and math.isfinite(half) and half > size > 0:
        # An interval shrinks with the root of the number of pictures.
        needed = math.ceil(pictures * (half / size) ** 2)
        yield (
            f'To tell a difference of {size:.4f} from 0 takes about {needed} test pictures, if '
            f'more of them is all that is missing; there are {pictures}.'
        )


def _command(*words: str | Path) -> str:
    return shlex.join(['cone-training', *map(str, words)])
