"""The verdict of a campaign: comparisons and figures in, what to deploy and what to do next out.

Pure: reads no file, draws no number. The rule and its consequences: docs/decisions/verdict.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

from training.judging.compare import Comparison, against_published, outcome_of
from training.judging.metrics import PRIMARY, TITLES
from training.judging.next_steps import next_steps
from training.judging.verdict import Against, CampaignCandidate, Gate, Outcome, Verdict
from training.recipe.recipe import BASELINE, Figures, Judging


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
    against = [_paired(comparison, judging.margin) for comparison in comparisons]
    paired = {line.baseline for line in against}
    for name, figures in judging.published.items():
        if figures.map50 is not None and name not in paired:
            against.append(_published(candidate, name, figures.map50, judging.margin))
    against.sort(key=lambda line: line.baseline != baseline)
    gates = _gates(candidate, judging.success)
    deciding = against[0] if against and against[0].baseline == baseline else None
    outcome = _outcome(deciding, gates)
    deploy = candidate.name if outcome is Outcome.BETTER else baseline
    reasons = [
        _rule(deciding, judging.margin) if deciding else _nothing_to_compare(baseline),
        *(f'{line}.' for line in against),
        *(f'{gate}.' for gate in gates),
        *([_subject(candidate, deciding)] if deciding else []),
        *(warning for comparison in comparisons for warning in comparison.warnings),
    ]
    recommendation = _recommendation(candidate, outcome, against, baseline)
    return Verdict(
        outcome=outcome,
        sentence=f'{_finding(candidate, outcome, deciding, gates, judging)} {recommendation}',
        reasons=tuple(dict.fromkeys(reasons)),
        gates=gates,
        against=tuple(against),
        deploy=deploy,
        recommendation=recommendation,
        next_steps=tuple(next_steps(candidate, outcome, deciding, deploy, comparisons)),
    )


def _paired(comparison: Comparison, margin: float) -> Against:
    row = comparison[PRIMARY]
    return Against(
        baseline=comparison.b,
        published=False,
        candidate_value=row.a.value,
        baseline_value=row.b.value,
        difference=comparison.deciding,
        outcome=outcome_of(comparison.deciding, margin),
        subject='strategy' if row.strategy else 'weights',
    )


def _published(candidate: CampaignCandidate, name: str, figure: float, margin: float) -> Against:
    difference = against_published(candidate.figures, figure)
    return Against(
        baseline=name,
        published=True,
        candidate_value=candidate.figures[PRIMARY].value,
        baseline_value=figure,
        difference=difference,
        outcome=outcome_of(difference, margin),
        subject='weights',
    )


def _gates(candidate: CampaignCandidate, success: Figures) -> tuple[Gate, ...]:
    gates = []
    for metric in (entry.name for entry in fields(Figures)):
        limit = getattr(success, metric)
        if limit is None:
            continue
        figure = candidate.figures[metric]
        passed = figure.value > limit
        proven = figure.low > limit if passed else figure.high <= limit
        gates.append(Gate(metric, limit, figure, passed, proven))
    return tuple(gates)


def _outcome(deciding: Against | None, gates: Sequence[Gate]) -> Outcome:
    if deciding is None:
        return Outcome.NOT_COMPARED
    if deciding.outcome is Outcome.BETTER and not all(gate.passed for gate in gates):
        return Outcome.BETTER_BUT_BELOW_TARGET
    return deciding.outcome


def _rule(deciding: Against, margin: float) -> str:
    found = deciding.difference
    inside = f'-{margin:g} to +{margin:g}'
    return {
        Outcome.BETTER: (
            'The 95 % interval of the difference lies above 0'
            + (
                f', and all of it above the {margin:g} that count as equal.'
                if found.low > margin
                else f'; that the gain exceeds the {margin:g} that count as equal is not proven.'
            )
        ),
        Outcome.WORSE: 'The 95 % interval of the difference lies below 0.',
        Outcome.EQUAL: f'The 95 % interval of the difference lies within {inside}.',
        Outcome.INCONCLUSIVE: (
            f'The 95 % interval of the difference holds 0 and leaves {inside}: better, equal and '
            'worse remain possible.'
            if math.isfinite(found.value)
            else 'The difference is not defined: no cone was there to be judged.'
        ),
    }[deciding.outcome]


def _nothing_to_compare(baseline: str) -> str:
    return f'There is no evaluation of {baseline}, and no published figure of it in the recipe.'


def _subject(candidate: CampaignCandidate, deciding: Against) -> str:
    if deciding.published:
        return (
            f'{deciding.label}: the figure is taken as exact. Its own error, and what its pictures '
            'have in common with these, are unknown: weaker evidence than a paired comparison.'
        )
    if deciding.subject == 'strategy':
        return (
            f'Judged over pictures and trainings ({candidate.seeds} of the candidate): this speaks '
            'of the strategy.'
        )
    return 'One training an arm: this judges this pair of weights, not the strategy.'


def _finding(
    candidate: CampaignCandidate,
    outcome: Outcome,
    deciding: Against | None,
    gates: Sequence[Gate],
    judging: Judging,
) -> str:
    if deciding is None:
        return f'{candidate.name} was not compared with a baseline.'
    found = deciding.difference
    name, other = candidate.name, deciding.label
    size = f'{found.value:+.4f} mAP50, 95 %: {found.low:+.4f} to {found.high:+.4f}'
    failed = ', '.join(TITLES[gate.metric] for gate in gates if not gate.passed)
    return {
        Outcome.BETTER: f'{name} is better than {other} ({size}).',
        Outcome.BETTER_BUT_BELOW_TARGET: (
            f'{name} is better than {other} ({size}), but misses the success table: {failed}.'
        ),
        Outcome.EQUAL: f'{name} equals {other} within {judging.margin:g} ({size}).',
        Outcome.WORSE: f'{name} is worse than {other} ({size}).',
        Outcome.INCONCLUSIVE: (
            f'Not enough evidence that {name} differs from {other} or equals it ({size}).'
        ),
    }[outcome]


def _recommendation(
    candidate: CampaignCandidate, outcome: Outcome, against: Sequence[Against], baseline: str
) -> str:
    better = [line.label for line in against if line.outcome is Outcome.WORSE]
    if outcome is Outcome.BETTER and better:
        return (
            f'Deploy {candidate.name}, but not in place of {" or ".join(better)}: it is worse '
            'than that.'
        )
    return {
        Outcome.BETTER: f'Deploy {candidate.name}.',
        Outcome.BETTER_BUT_BELOW_TARGET: (
            f'Keep {baseline}: what was set as success before the training is not reached.'
        ),
        Outcome.EQUAL: f'Keep {baseline}: it is simpler, and nothing is lost.',
        Outcome.WORSE: f'Keep {baseline}.',
        Outcome.INCONCLUSIVE: f'Keep {baseline}: it is simpler, and nothing is shown to be lost.',
        Outcome.NOT_COMPARED: f'Keep {baseline} until it has been compared.',
    }[outcome]
