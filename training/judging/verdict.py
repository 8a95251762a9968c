"""Outcomes of a comparison and a campaign, and the parts of a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal

from cone_perception.accuracy.intervals import Interval
from training.judging.metrics import TITLES


class Outcome(IntEnum):
    """Ways for a campaign to end, and the exit code of `cone-training two-stage` for it.

    1 and 2 are any command's: something asked for cannot be done, wrong arguments.
    BETTER to BETTER_BUT_BELOW_TARGET: the campaign is finished, and starting it again changes
    nothing. The last one misses a figure that the recipe sets as success.
    VERIFICATION_FAILED and STOPPED_BY_GUARD: a person has to look. The others: `--resume` goes on,
    once there is room on the disk or in memory again.
    """

    BETTER = 0
    EQUAL = 10
    WORSE = 11
    INCONCLUSIVE = 12
    NOT_COMPARED = 13
    BETTER_BUT_BELOW_TARGET = 14
    VERIFICATION_FAILED = 20
    STOPPED_BY_GUARD = 21
    OUT_OF_DISK = 30
    OUT_OF_MEMORY = 31
    INTERRUPTED = 75

    @property
    def label(self) -> str:
        """Name in campaign.json and the report: `stopped by guard`."""
        return self.name.lower().replace('_', ' ')

    @property
    def finished(self) -> bool:
        """True when nothing is left to do."""
        return self < Outcome.VERIFICATION_FAILED

    @classmethod
    def of(cls, label: str) -> Outcome:
        """The outcome of that label."""
        return cls[label.upper().replace(' ', '_')]


def outcome_of(difference: Interval, margin: float) -> Outcome:
    """Outcome that an interval means. The rule and its consequences: docs/decisions/verdict.md.

    Inside -margin..margin: equal, whatever side of 0 it lies on. Else all above 0: better; all
    below 0: worse. Else inconclusive, and so is what is not defined.
    """
    if -margin <= difference.low and difference.high <= margin:
        return Outcome.EQUAL
    if difference.low > 0:
        return Outcome.BETTER
    return Outcome.WORSE if difference.high < 0 else Outcome.INCONCLUSIVE


def finding(a: str, b: str, difference: Interval, margin: float, note: str = '') -> str:
    """Sentence on a's mAP50 minus b's. note: stands after the interval."""
    found = {
        Outcome.BETTER: f'{a} is better than {b}',
        Outcome.EQUAL: f'{a} equals {b} within {margin:g}',
        Outcome.WORSE: f'{a} is worse than {b}',
        Outcome.INCONCLUSIVE: f'Not enough evidence that {a} differs from {b} or equals it',
    }[outcome_of(difference, margin)]
    low, high = difference.low, difference.high
    return f'{found} ({difference.value:+.4f} mAP50, 95 %: {low:+.4f} to {high:+.4f}{note}).'


@dataclass(frozen=True, slots=True)
class Gate:
    """One line of the success table: the figure has to exceed `limit`.

    proven: the whole 95 % interval lies on the figure's side of the limit. status: `passed`,
    `passed, unproven`, `failed` or `failed, unproven`.
    """

    metric: str
    limit: float
    figure: Interval
    passed: bool
    proven: bool
    status: str

    @classmethod
    def of(cls, metric: str, limit: float, figure: Interval) -> Gate:
        """Hold a figure against its limit."""
        passed = figure.value > limit
        proven = figure.low > limit if passed else figure.high <= limit
        status = ('passed' if passed else 'failed') + ('' if proven else ', unproven')
        return cls(metric, limit, figure, passed, proven, status)

    def __str__(self) -> str:
        return f'{TITLES[self.metric]} {self.figure} > {self.limit:g}: {self.status}'


@dataclass(frozen=True, slots=True)
class Against:
    """The candidate against one baseline, on mAP50.

    difference: candidate minus baseline. outcome: label of an Outcome. published: the baseline is a
    figure in print: nothing is paired, and its own error is unknown. subject: what the interval
    speaks of, these weights or the strategy that made them. label: the baseline's, for people.
    """

    baseline: str
    candidate_value: float
    baseline_value: float
    difference: Interval
    outcome: str
    published: bool
    subject: Literal['weights', 'strategy']
    label: str

    def __str__(self) -> str:
        return (
            f'{self.candidate_value:.4f} against {self.baseline_value:.4f} of {self.label}, '
            f'{self.difference.signed}: {self.outcome}'
        )


@dataclass(frozen=True, slots=True)
class CampaignCandidate:
    """The arm that is judged, with all that the next steps name.

    figures: its own, each with its interval. weights: by name, of the candidate and of baselines
    that could be deployed instead. data, pretraining: folders of the target and of the
    pre-training set. first_stage: weights after pre-training.
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
    """The result of a campaign: the content of verdict.json.

    outcome, exit_code: label and number of its Outcome. sentence: for people. reasons: how it came
    about and what limits it. against: every baseline, the deciding one first. deploy: name of the
    model to put on the car. next_steps: sentences, and commands to be typed.
    """

    outcome: str
    exit_code: int
    sentence: str
    reasons: tuple[str, ...]
    gates: tuple[Gate, ...]
    against: tuple[Against, ...]
    deploy: str
    recommendation: str
    next_steps: tuple[str, ...]
