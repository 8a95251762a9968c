"""Next steps after a verdict: sentences, and commands to be typed."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from training.judging.compare import Comparison
from training.judging.signatures import MITIGATIONS
from training.judging.verdict import Against, CampaignCandidate, Outcome

FINE_TUNING_ONLY = ('higher_lr', 'longer', 'lower_lr', 'cosine')
"""Recipes whose first stage is the plain one: its weights need not be trained again."""


def next_steps(
    candidate: CampaignCandidate,
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


def _export(name: str, candidate: CampaignCandidate) -> list[str]:
    bundle, data = f'models/{name}', candidate.data
    judged = data or 'DATASET'
    weights = candidate.weights[name]
    words: list[str | Path] = ['export', weights, '--data', judged]
    if candidate.card and candidate.card.parent in weights.parents:  # else trained elsewhere
        words += ['--card', candidate.card]
    return [
        f'Export {name} to INT8: {_command(*words)} --out {bundle}',
        f'Judge what drives: {_command("evaluate", bundle, "--data", judged)} '
        '--operating-point card',
        f'Deploy: copy {bundle} to the car and start '
        f'ros2 launch cone_perception detector.launch.py model:={bundle}',
    ]


def _mitigations(candidate: CampaignCandidate) -> list[str]:
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
    candidate: CampaignCandidate, deciding: Against, comparisons: Sequence[Comparison]
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
