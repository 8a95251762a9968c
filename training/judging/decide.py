"""The verdict of a campaign: comparisons and figures in, what to deploy and what to do next out.

Pure: reads no file, draws no number. The rule and its consequences: docs/decisions/verdict.md.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cone_perception.accuracy.intervals import Interval
from cone_perception.files import without_nan
from training.judging.compare import (
    PRIMARY,
    TITLES,
    Comparison,
    against_published,
    outcome_of,
)
from training.judging.outcome import Outcome
from training.recipe.recipe import BASELINE, Figures, Judging
from training.stage.guards import AGAINST_FORGETTING

Subject = Literal['weights', 'strategy']

MITIGATIONS: Mapping[str, tuple[str, ...]] = {
    'overfit': ('shorter_stage1', 'more_augmentation', 'higher_lr'),
    'forgetting': AGAINST_FORGETTING,
    'mismatch': (),
    '': ('higher_lr', 'longer'),
}
"""Signature of one of the strategy's issues -> recipes that it names; '': none recognised.

A mismatch has none: the data sets are too different, and the single-stage model stays.
"""

FINE_TUNING_ONLY = ('higher_lr', 'longer', 'lower_lr', 'cosine')
"""Recipes whose first stage is the plain one: its weights need not be trained again."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One line of the success table.

    passed: the figure itself exceeds `limit`. proven: its whole 95 % interval lies on that side.
    """

    metric: str
    limit: float
    figure: Interval
    passed: bool
    proven: bool

    @property
    def status(self) -> str:
        """`passed`, `passed, unproven`, `failed` or `failed, unproven`."""
        return ('passed' if self.passed else 'failed') + ('' if self.proven else ', unproven')

    def __str__(self) -> str:
        return f'{TITLES[self.metric]} {self.figure} > {self.limit:g}: {self.status}'


@dataclass(frozen=True, slots=True)
class Against:
    """The candidate against one baseline, on mAP50.

    difference: candidate minus baseline. published: the baseline is a figure in print: nothing is
    paired, and its own error is unknown. subject: what the interval speaks of, these weights or
    the strategy that made them.
    """

    baseline: str
    published: bool
    candidate_value: float
    baseline_value: float
    difference: Interval
    outcome: Outcome
    subject: Subject

    @property
    def label(self) -> str:
        return f'{self.baseline} (published, not paired)' if self.published else self.baseline

    def __str__(self) -> str:
        found = self.difference
        return (
            f'{self.candidate_value:.4f} against {self.baseline_value:.4f} of {self.label}, '
            f'{found.value:+.4f} (95 %: {found.low:+.4f} to {found.high:+.4f}): '
            f'{self.outcome.label}'
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged, and what the next steps need to know.

    figures: its own, each with its interval (`Comparison.own`, `compare.interval`). weights: by
    name, of the candidate and of baselines that could be deployed instead. data, pretraining:
    folders of the target and of the pre-training set. first_stage: weights after pre-training.
    recipe: what was run. card: what the campaign tells of its models, for the bundle's card.
    seeds: trainings of the candidate. signatures: keys of MITIGATIONS.
    """

    name: str
    figures: Mapping[str, Interval]
    weights: Mapping[str, Path] = field(default_factory=dict)
    data: Path | None = None
    pretraining: Path | None = None
    first_stage: Path | None = None
    recipe: str = 'two_stage'
    card: Path | None = None
    seeds: int = 1
    signatures: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a campaign found.

    outcome: of the whole, and the exit code. sentence: for people. reasons: how it came about and
    what limits it. gates: the success table. against: every baseline, the deciding one first.
    deploy: name of the model to put on the car. next_steps: sentences, and commands to be typed.
    """

    outcome: Outcome
    sentence: str
    reasons: tuple[str, ...]
    gates: tuple[Gate, ...]
    against: tuple[Against, ...]
    deploy: str
    recommendation: str
    next_steps: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return int(self.outcome)

    def to_json(self) -> dict[str, Any]:
        """As verdict.json holds it; NaN becomes null."""
        stored: dict[str, Any] = without_nan(
            {
                **asdict(self),
                'outcome': self.outcome.label,
                'exit_code': self.exit_code,
                'gates': [{**asdict(gate), 'status': gate.status} for gate in self.gates],
                'against': [
                    {**asdict(line), 'outcome': line.outcome.label, 'label': line.label}
                    for line in self.against
                ],
            }
        )
        return stored


def decide(
    candidate: Candidate,
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
        next_steps=tuple(_next_steps(candidate, outcome, deciding, deploy, comparisons)),
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


def _published(candidate: Candidate, name: str, figure: float, margin: float) -> Against:
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


def _gates(candidate: Candidate, success: Figures) -> tuple[Gate, ...]:
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


def _subject(candidate: Candidate, deciding: Against) -> str:
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
    candidate: Candidate,
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
    candidate: Candidate, outcome: Outcome, against: Sequence[Against], baseline: str
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


def _next_steps(
    candidate: Candidate,
    outcome: Outcome,
    deciding: Against | None,
    deploy: str,
    comparisons: Sequence[Comparison],
) -> list[str]:
    steps = []
    if deploy in candidate.weights and outcome is not Outcome.NOT_COMPARED:
        steps += _export(deploy, candidate)
    if outcome in (Outcome.WORSE, Outcome.BETTER_BUT_BELOW_TARGET):
        steps += _mitigations(candidate)
    elif outcome is Outcome.INCONCLUSIVE and deciding is not None:
        steps += _more_evidence(candidate, deciding, comparisons)
        if candidate.signatures:
            steps += _mitigations(candidate)
    elif outcome is Outcome.EQUAL:
        steps.append('Write it down: pre-training brought nothing that counts on this benchmark.')
    elif outcome is Outcome.NOT_COMPARED:
        steps.append(
            'Give the baseline: its weights as --baseline single-stage=WEIGHTS, or its figures as '
            'judging.published in the recipe.'
        )
    if deciding is not None and deciding.published:
        steps.append(
            'Pair it: evaluate the baseline itself on the same pictures (--baseline '
            f'{deciding.baseline}=WEIGHTS, or train it: baseline in the recipe). That is stronger '
            'evidence, and the interval of a paired difference is usually narrower.'
        )
    return steps


def _export(name: str, candidate: Candidate) -> list[str]:
    bundle, data = f'models/{name}', candidate.data
    judged = data or 'DATASET'
    weights = candidate.weights[name]
    words: list[str | Path] = ['export', weights, '--data', judged]
    if candidate.card and candidate.card.parent in weights.parents:  # else trained elsewhere
        words += ['--card', candidate.card]
    return [
        f'Export {name} to INT8: {_command(*words)} --out {bundle}',
        f'Judge what drives: {_command("judge", "--model", bundle, "--data", judged)}',
        f'Deploy: copy {bundle} to the car and start '
        f'ros2 launch cone_perception detector.launch.py model:={bundle}',
    ]


def _mitigations(candidate: Candidate) -> list[str]:
    names = candidate.signatures or ('',)
    recipes = tuple(dict.fromkeys(recipe for name in names for recipe in MITIGATIONS[name]))
    steps = []
    if 'mismatch' in names or not candidate.signatures:
        sets = (candidate.pretraining or 'PRETRAINING_SET', candidate.data or 'TARGET_SET')
        steps.append(f'See how far the data sets are apart: {_command("data", "gap", *sets)}')
    for recipe in recipes:
        words: list[str | Path] = ['two-stage', recipe]
        if recipe in FINE_TUNING_ONLY and candidate.first_stage:
            words += ['stage1.epochs=0', f'model={candidate.first_stage}']
        steps.append(f'Try {recipe}: {_command(*words)}')
    if 'mismatch' in names:
        steps.append('Pre-train on another data set, or stay with single-stage training.')
    return steps


def _more_evidence(
    candidate: Candidate, deciding: Against, comparisons: Sequence[Comparison]
) -> list[str]:
    steps = []
    if not deciding.published and deciding.subject == 'weights':
        steps.append(
            'Learn how much a seed matters: '
            f'{_command("two-stage", candidate.recipe, "seeds=[0,1,2]", "--name", "three-seeds")}'
        )
    found = deciding.difference
    half = (found.high - found.low) / 2
    pictures = next((c.pictures for c in comparisons if c.b == deciding.baseline), 0)
    if pictures and math.isfinite(half) and half > abs(found.value) > 0:
        # An interval shrinks with the root of the number of pictures.
        needed = math.ceil(pictures * (half / abs(found.value)) ** 2)
        steps.append(
            f'To tell a difference of {abs(found.value):.4f} from 0 takes about {needed} test '
            f'pictures, if more of them is all that is missing; there are {pictures}.'
        )
    return steps


def _command(*words: str | Path) -> str:
    return shlex.join(['cone-training', *map(str, words)])
