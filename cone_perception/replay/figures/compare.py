"""Replays side by side: is this one really better than that one?

result.json of each -> what differs between the runs -> the difference of each figure with its
interval -> a verdict

The first result is the baseline. Accuracy is paired: only frames that both replays sent (`_sent`)
or answered (`_answered`) count, and both see the same resamples of the drive's seconds. All other
figures are of two independent runs: the interval of their difference comes from the two figures'
own intervals (MOVER, Zou and Donner 2008: each end is as far from the difference as both of the
ends that it hangs on are from their figures, added as squares), and those are of the block
bootstrap over frames, see `replay.figures.statistics`. It keeps their skewness, and needs no second
draw.

Frames of one run know nothing of what changes from run to run. So where both replays have several
passes, the interval is that over passes (Student's t, with the fewer passes' degrees of freedom)
if that is wider. With one pass of either, RUN_SCATTER is assumed for times and rates.
docs/decisions/comparing.md has what this does to the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from cone_perception.accuracy.intervals import Interval, t_quantile
from cone_perception.errors import SettingsError
from cone_perception.replay.figures.accuracy import accuracy_rows, interval_of
from cone_perception.replay.figures.comparable import RUN_SCATTER, find_obstacles, find_warnings
from cone_perception.replay.figures.names import UNITS, kind_of
from cone_perception.replay.figures.result import UNKNOWN, ReplayResult, read_result, result_file
from cone_perception.replay.output_folder import distinct_names
from cone_perception.replay.traces import FrameTrace

Verdict = Literal['better', 'worse', 'equal', 'higher', 'lower', 'inconclusive', 'not comparable']
"""better, worse: the whole interval of the difference is on that side of 0, and reaches beyond the
margin. higher, lower: the same of a figure of which neither is better. equal: the whole interval is
within the margin. inconclusive: none of these. not comparable: the runs differ in what it hangs
on."""


@dataclass(frozen=True, slots=True)
class FigureDifference:
    """One figure of two results.

    baseline, other: of the frames that count, which for accuracy may be fewer than in the results.
    difference: other minus baseline. margin: within it they are equal. why: how the interval comes
    about, or why there is no verdict.
    """

    name: str
    baseline: Interval
    other: Interval
    difference: Interval
    margin: float
    verdict: Verdict
    why: str = ''


@dataclass(frozen=True, slots=True)
class ReplayComparison:
    """A result against the baseline. notes: what limits it, a sentence each.

    sent, answered: frames that both sent, and both answered.
    """

    name: str
    notes: tuple[str, ...]
    sent: int
    answered: int
    differences: tuple[FigureDifference, ...]

    def __getitem__(self, name: str) -> FigureDifference:
        """The difference of one figure; KeyError."""
        return {each.name: each for each in self.differences}[name]


@dataclass(frozen=True, slots=True, eq=False)
class ComparedResults:
    """Several results; the first is the baseline. names: a short one for each."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    results: tuple[ReplayResult, ...]
    comparisons: tuple[ReplayComparison, ...]


def compare_results(paths: Sequence[Path], seed: int = 0) -> ComparedResults:
    """Compare each result with the first. Raises SourceError, SettingsError."""
    if len(paths) < 2:
        raise SettingsError('nothing to compare with: give two results or more.')
    files = tuple(map(result_file, paths))
    results = tuple(read_result(file) for file in files)
    names = tuple(distinct_names([_folder_of(file) for file in files], '/'))
    return ComparedResults(
        names,
        files,
        results,
        tuple(
            compare(results[0], other, (names[0], name), seed)
            for name, other in zip(names[1:], results[1:], strict=True)
        ),
    )


def compare(
    baseline: ReplayResult,
    other: ReplayResult,
    names: tuple[str, str] = ('baseline', 'other'),
    seed: int = 0,
) -> ReplayComparison:
    """Every figure's difference, other minus baseline, with a verdict."""
    obstacles = find_obstacles(baseline, other)
    sent = _keys(baseline.passes) & _keys(other.passes)
    answered = _keys(baseline.passes, answered=True) & _keys(other.passes, answered=True)
    paired: dict[str, FigureDifference] = {}
    if not any(each.covers('recall_answered') for each in obstacles):
        which = {'_sent': sent, '_answered': answered}
        if sent == answered:
            which = {'': sent}
        paired = {
            each.name: each
            for part, keys in which.items()
            for each in _paired(baseline, other, part, keys, seed)
        }
    differences = []
    for name in dict.fromkeys((*baseline.figures, *other.figures)):
        found = paired.get(name) or _unpaired(name, baseline, other, names)
        stopped = next((each for each in obstacles if each.covers(name)), None)
        if stopped:
            found = replace(found, verdict='not comparable', why=stopped.what)
        differences.append(found)
    return ReplayComparison(
        names[1],
        (*(each.note for each in obstacles), *find_warnings(baseline, other, names)),
        len(sent),
        len(answered),
        tuple(differences),
    )


def verdict_of(name: str, difference: Interval, margin: float) -> Verdict:
    """Judge the interval of a difference, other minus baseline."""
    if not difference.known:
        return 'inconclusive'
    if -margin <= difference.low and difference.high <= margin:
        return 'equal'
    if difference.low <= 0 <= difference.high:
        return 'inconclusive'
    higher = difference.low > 0
    better = kind_of(name).better
    if better is None:
        return 'higher' if higher else 'lower'
    return 'better' if higher == (better == 'higher') else 'worse'


def _paired(
    a: ReplayResult,
    b: ReplayResult,
    part: str,
    keys: set[tuple[str, int]],
    seed: int,
) -> Iterator[FigureDifference]:
    """Accuracy on these frames. The same frames and seed make the same resamples for both.

    part: of their names; `_sent` or `_answered`, empty for both.
    """
    keys = keys & (a.truth or {}).keys() & (b.truth or {}).keys()
    if not keys:
        return
    classes = a.model['class_names']
    rows_a, rows_b = (
        accuracy_rows(
            [frame for frame in result.frames if (frame.camera, frame.stamp_ns) in keys],
            *(a.truth or {}, classes, result.model['thresholds'], seed),
        )
        for result in (a, b)
    )
    for name in rows_a:
        if part in name:
            a_rows, b_rows = rows_a[name], rows_b[name]
            mine, theirs, change = map(interval_of, (a_rows, b_rows, b_rows - a_rows))
            why = f'paired by frame: {len(keys)} frames'
            yield _difference(name, mine, theirs, change, why)


def _unpaired(
    name: str, a: ReplayResult, b: ReplayResult, names: tuple[str, str]
) -> FigureDifference:
    mine, theirs = _figure(name, a), _figure(name, b)
    figures = zip(names, (mine, theirs), strict=True)
    if missing := [who for who, figure in figures if math.isnan(figure.value)]:
        why = f'not known of {" and ".join(missing)}'
        return FigureDifference(name, mine, theirs, UNKNOWN, math.nan, 'not comparable', why)
    difference = subtract(theirs, mine)
    over_passes = _over_passes(name, a, b, difference.value)
    why = 'from both intervals'
    if min(len(a.passes), len(b.passes)) < 2:
        why = 'of one run'
        if UNITS[kind_of(name).unit].scatters:
            half = 1.96 * math.sqrt(2) * RUN_SCATTER * mine.value
            difference = subtract(difference, Interval(0, -half, half))
            why = f'of one run, {100 * RUN_SCATTER:g} % from run to run assumed'
    if over_passes is not None and not over_passes.width <= difference.width:
        difference, why = over_passes, 'over passes'
    if math.isnan(difference.low):
        why = 'no interval: --repeat gives one'
    if '_min_' in name or '_max_' in name:
        difference = Interval(difference.value)
        why = 'one frame decides it'
    return _difference(name, mine, theirs, difference, why)


def subtract(other: Interval, baseline: Interval) -> Interval:
    """The difference of two independent figures, with MOVER's interval (see the module)."""
    value = other.value - baseline.value
    return Interval(
        value,
        value - math.hypot(other.value - other.low, baseline.high - baseline.value),
        value + math.hypot(other.high - other.value, baseline.value - baseline.low),
    )


def _over_passes(name: str, a: ReplayResult, b: ReplayResult, value: float) -> Interval | None:
    """The interval over passes; None where one of them has a single one."""
    of_both = []
    for result in (a, b):
        values = [each[name].value for each in result.per_pass if name in each]
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return None
        of_both.append(np.array(values))
    error = math.sqrt(sum(float(values.var(ddof=1)) / len(values) for values in of_both))
    freedom = min(map(len, of_both)) - 1
    half = t_quantile(freedom) * error
    return Interval(value, value - half, value + half)


def _figure(name: str, result: ReplayResult) -> Interval:
    figure = result.figure(name)
    if name == 'max_rate_hz':
        # It passed at this rate, and failed at the next one that was tried.
        failed = [each['hz'] for each in result.probes if not each['passed']]
        above = min((hz for hz in failed if hz > figure.value), default=math.nan)
        return Interval(figure.value, figure.value, above)
    if kind_of(name).unit == 'frames':
        return Interval(figure.value, figure.value, figure.value)
    return figure


def _difference(
    name: str, a: Interval, b: Interval, difference: Interval, why: str
) -> FigureDifference:
    margin = UNITS[kind_of(name).unit].margin(a.value)
    return FigureDifference(
        name, a, b, difference, margin, verdict_of(name, difference, margin), why
    )


def _keys(passes: Sequence[Sequence[FrameTrace]], answered: bool = False) -> set[tuple[str, int]]:
    """Camera and stamp of the frames; of the answered ones those that every pass answered."""
    of_passes = [
        {(f.camera, f.stamp_ns) for f in frames if not answered or f.found is not None}
        for frames in passes
    ]
    return set.intersection(*of_passes) if of_passes else set()


def _folder_of(file: Path) -> Path:
    whole = file.resolve()
    return whole.parent if whole.name == 'result.json' else whole.with_suffix('')
