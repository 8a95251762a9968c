"""The strategy's three issues, recognised by their symptoms in a run's own figures.

A signature is a reading of figures, not a proof: it names what to look at and what to try.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cone_perception.files import without_nan
from training.recipe.recipe import AGAINST_FORGETTING, BASELINE, Guards

MITIGATIONS: Mapping[str, tuple[str, ...]] = {
    'overfit': ('shorter_stage1', 'more_augmentation', 'higher_lr'),
    'forgetting': AGAINST_FORGETTING,
    'mismatch': (),
    '': ('higher_lr', 'longer'),
}
"""Signature of one of the strategy's issues -> recipes that it names; '': none recognised.

A mismatch has none: the data sets are too different, and the single-stage model stays.
"""


@dataclass(frozen=True, slots=True)
class RunFigures:
    """mAP50 of one run, 0..1; None: not measured.

    source_val: of the first stage's weights on the pre-training set's validation split. start: of
    the weights that the last stage starts from, on the target's. target_val: of the last stage's
    weights there. test: on the target's test split. baseline, baseline_test: baseline_name's on the
    same two splits. val_losses: of the last stage, by epoch; forgot: the guard stopped it.
    """

    source_val: float | None = None
    start: float | None = None
    target_val: float | None = None
    test: float | None = None
    baseline: float | None = None
    baseline_test: float | None = None
    baseline_name: str = BASELINE
    val_losses: Sequence[float] = ()
    forgot: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """An issue that a run shows. issue: its number in the strategy. name: as in MITIGATIONS."""

    issue: int
    name: str
    run: str
    message: str
    values: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Content for campaign.json, with the recipes to try."""
        return {**without_nan(self), 'remedies': list(MITIGATIONS[self.name])}


def find_signatures(
    run: str, figures: RunFigures, guards: Guards, margin: float
) -> Iterator[Signature]:
    """Yield the issues that a run's figures show. margin: what counts as equal, absolute."""
    source, start, target = (
        math.nan if value is None else value
        for value in (figures.source_val, figures.start, figures.target_val)
    )
    if source > guards.overfit_map50 and target < guards.forgotten_map50:
        message = (
            f'mAP50 {source:.3f} on the pre-training set (above {guards.overfit_map50:g}), but '
            f'{target:.3f} on the target after fine-tuning (below {guards.forgotten_map50:g}).'
        )
        values = {'source_val': source, 'target_val': target}
        yield Signature(1, 'overfit', run, message, values)
    fell = start - target > guards.forgetting_drop
    if fell or figures.forgot:
        message = 'The forgetting guard stopped the fine-tuning.'
        if fell:
            message = (
                f'Validation mAP50 on the target fell from {start:.3f} to {target:.3f} in '
                f'fine-tuning, by more than {guards.forgetting_drop:g}.'
            )
        values = {'start': start, 'target_val': target} if math.isfinite(start - target) else {}
        if len(figures.val_losses) > 1:
            least, last = min(figures.val_losses), figures.val_losses[-1]
            values |= {'val_loss_least': least, 'val_loss_last': last}
            if last > least * 1.02:
                message += f' The validation loss rose from {least:.3f} to {last:.3f}.'
        yield Signature(2, 'forgetting', run, message, values)
    for where, own, other in (
        ('test', figures.test, figures.baseline_test),
        ('validation', figures.target_val, figures.baseline),
    ):
        if own is None or other is None:
            continue
        if own < source and own < other - margin:
            message = (
                f'mAP50 {source:.3f} on the pre-training set, but {own:.3f} on the target '
                f'({where}): below the {other:.3f} of {figures.baseline_name}. What the '
                'pre-training set teaches does not help there: stay with single-stage training.'
            )
            values = {'source_val': source, 'own': own, 'baseline': other}
            yield Signature(3, 'mismatch', run, message, values)
        return
