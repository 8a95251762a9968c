"""Replays side by side: is this one really better than that one?

The first result is the baseline. Accuracy is paired by frame; all other figures are of two
independent runs. docs/decisions/comparing.md tells how, why, and what it does to the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import variance
from typing import Any, Literal

import numpy as np

from cone_perception.accuracy.intervals import Float64, Interval, subtract, t_quantile
from cone_perception.errors import SettingsError
from cone_perception.replay.figures.accuracy import accuracy_rows, interval_of, least_scores
from cone_perception.replay.figures.names import UNITS, kind_of
from cone_perception.replay.figures.positions import POSITION_FIGURES, errors_of, position_rows
from cone_perception.replay.figures.result import UNKNOWN, ReplayResult, read_result, result_file
from cone_perception.replay.output_folder import distinct_names
from cone_perception.replay.traces import FrameTrace

Verdict = Literal['better', 'worse', 'equal', 'higher', 'lower', 'inconclusive', 'not comparable']
"""better, worse: the whole interval of the difference is on that side of 0, and reaches beyond the
margin. higher, lower: the same of a figure of which neither is better. equal: the whole interval is
within the margin. inconclusive: none of these. not comparable: the runs differ in what it hangs
on."""


RUN_SCATTER = 0.05
"""Standard deviation of a time or a rate from run to run, as a share of it, where nothing shows it:
an assumption."""

FEW_FRAMES = 300
"""Below, the 99th percentile hangs on fewer than three frames."""

MACHINE = ('processor', 'cores_usable', 'gpu', 'governor')
SOFTWARE = ('driver', 'cuda', 'kernel', 'python', 'ros_distro', 'rmw', 'git_commit')
ACCURACY = ('precision_', 'recall_', 'map50_', 'ap50_', *POSITION_FIGURES)
ANSWERS = (*ACCURACY, 'flicker_', 'detections_per_frame', 'agreement_')
"""Figures of what was answered. The others tell of time, loss and load."""

Stops = Literal['all', 'times', 'answers', 'accuracy']

CONSEQUENCES: Mapping[Stops, str] = {
    'all': 'nothing is comparable',
    'times': 'latencies, losses and load are not comparable',
    'answers': 'accuracy is not comparable',
    'accuracy': 'accuracy is not comparable',
}


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

    sent, answered: frames that both sent, and both answered. differences: by the figure's name.
    """

    name: str
    notes: tuple[str, ...]
    sent: int
    answered: int
    differences: Mapping[str, FigureDifference]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that two runs differ in. stops: the figures that are not comparable for it."""

    what: str
    differs: str
    stops: Stops

    @property
    def note(self) -> str:
        """A sentence for the reader."""
        return f'{self.what.capitalize()} ({self.differs}): {CONSEQUENCES[self.stops]}.'

    def covers(self, figure: str) -> bool:
        """The figure of this name is not comparable."""
        of_answers = figure.startswith(ANSWERS)
        return {
            'all': True,
            'accuracy': figure.startswith(ACCURACY),
            'answers': of_answers,
            # A frame that is lost is a miss in `_sent`: it hangs on time too.
            'times': not of_answers or '_sent' in figure,
        }[self.stops]


@dataclass(frozen=True, slots=True, eq=False)
class ComparedResults:
    """Several results; the first is the baseline. names: a short one for each."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    results: tuple[ReplayResult, ...]
    comparisons: tuple[ReplayComparison, ...]


def compare_results(paths: Sequence[Path]) -> ComparedResults:
    """Compare each result with the first. Raises SourceError, SettingsError."""
    if len(paths) < 2:
        raise SettingsError('nothing to compare with: give two results or more.')
    files = tuple(map(result_file, paths))
    results = tuple(map(read_result, files))
    folders = (file.resolve() for file in files)
    named = [f.parent if f.name == 'result.json' else f.with_suffix('') for f in folders]
    names = tuple(distinct_names(named, '/'))
    others = zip(names[1:], results[1:], strict=True)
    comparisons = tuple(compare(results[0], other, (names[0], name)) for name, other in others)
    return ComparedResults(names, files, results, comparisons)


def compare(
    baseline: ReplayResult, other: ReplayResult, names: tuple[str, str] = ('baseline', 'other')
) -> ReplayComparison:
    """Every figure's difference, other minus baseline, with a verdict."""
    obstacles = find_obstacles(baseline, other)
    sent = _keys(baseline.passes) & _keys(other.passes)
    answered = _keys(baseline.passes, answered=True) & _keys(other.passes, answered=True)
    paired: dict[str, FigureDifference] = {}
    if not any(each.covers('recall_answered') for each in obstacles):
        parts = {'': sent} if sent == answered else {'_sent': sent, '_answered': answered}
        for part, keys in parts.items():
            paired |= {each.name: each for each in _paired(baseline, other, part, keys)}
        paired |= {each.name: each for each in _paired_positions(baseline, other, answered)}
    differences = {}
    for name in dict.fromkeys((*baseline.figures, *other.figures)):
        found = paired.get(name) or _unpaired(name, baseline, other, names)
        stopped = next((each for each in obstacles if each.covers(name)), None)
        if stopped:
            found = replace(found, verdict='not comparable', why=stopped.what)
        differences[name] = found
    return ReplayComparison(
        names[1],
        (*(each.note for each in obstacles), *find_warnings(baseline, other, names)),
        len(sent),
        len(answered),
        differences,
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
    a: ReplayResult, b: ReplayResult, part: str, keys: set[tuple[str, int]]
) -> Iterator[FigureDifference]:
    """Accuracy on these frames. The same frames make the same resamples for both.

    part: of their names; `_sent` or `_answered`, empty for both.
    """
    keys = keys & (a.truth or {}).keys() & (b.truth or {}).keys()
    if not keys:
        return
    classes = a.model['class_names']
    rows_a, rows_b = (
        accuracy_rows(_frames_of(result, keys), a.truth or {}, classes, least_scores(result))
        for result in (a, b)
    )
    for each in _differences(rows_a, rows_b, len(keys)):
        if part in each.name:
            yield each


def _paired_positions(
    a: ReplayResult, b: ReplayResult, keys: set[tuple[str, int]]
) -> Iterator[FigureDifference]:
    """Errors of positions in these frames."""
    keys = keys & (a.places or {}).keys() & (b.places or {}).keys()
    ours, theirs = (errors_of(each, _frames_of(each, keys)) for each in (a, b))
    if len(ours) and len(theirs) and set(ours.stamps_ns) == set(theirs.stamps_ns):
        yield from _differences(position_rows(ours), position_rows(theirs), len(keys))


def _frames_of(result: ReplayResult, keys: set[tuple[str, int]]) -> list[FrameTrace]:
    return [frame for frame in result.frames if (frame.camera, frame.stamp_ns) in keys]


def _differences(
    rows_a: Mapping[str, Float64], rows_b: Mapping[str, Float64], frames: int
) -> Iterator[FigureDifference]:
    """Of figures that were drawn alike, row by row."""
    for name, a_rows in rows_a.items():
        mine, theirs, change = map(interval_of, (a_rows, rows_b[name], rows_b[name] - a_rows))
        yield _difference(name, mine, theirs, change, f'paired by frame: {frames} frames')


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
            half = t_quantile(math.inf) * math.sqrt(2) * RUN_SCATTER * mine.value
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


def _over_passes(name: str, a: ReplayResult, b: ReplayResult, value: float) -> Interval | None:
    """The interval over passes; None where one of them has a single one."""
    of_both = [[each[name].value for each in r.per_pass if name in each] for r in (a, b)]
    fewest = min(map(len, of_both))
    if fewest < 2 or not all(map(math.isfinite, chain.from_iterable(of_both))):
        return None
    error = math.sqrt(sum(variance(values) / len(values) for values in of_both))
    half = t_quantile(fewest - 1) * error
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
        {
            (f.camera, f.stamp_ns)
            for f in frames
            if f.wanted and (not answered or f.found is not None)
        }
        for frames in passes
    ]
    return set.intersection(*of_passes) if of_passes else set()


def find_obstacles(a: ReplayResult, b: ReplayResult) -> list[Obstacle]:
    """Find all that makes figures of two results incomparable."""
    found: list[Obstacle] = []
    if a.bag.get('sha256') != b.bag.get('sha256'):
        differs = f'{a.bag.get("path")} and {b.bag.get("path")}'
        found.append(Obstacle('not the same bag', differs, 'all'))
    for what, of, keys in (
        ('machine', 'host', MACHINE),
        ('way', 'configuration', ('through',)),
        ('pace', 'configuration', ('pace',)),
        ('number of jobs at once', 'configuration', ('jobs',)),
        ('classes', 'model', ('class_names',)),
    ):
        if differs := _differing(getattr(a, of), getattr(b, of), keys):
            if what == 'pace':
                differs = f'{pace_text(a.configuration)} and {pace_text(b.configuration)}'
            stops: Stops = 'answers' if what == 'classes' else 'times'
            found.append(Obstacle(f'not the same {what}', differs, stops))
    ours, theirs = a.truth or {}, b.truth or {}
    same_truth = all(
        np.array_equal(ours[key].xyxy_px, theirs[key].xyxy_px)
        and np.array_equal(ours[key].class_id, theirs[key].class_id)
        for key in ours.keys() & theirs.keys()
    )
    if not same_truth and a.model.get('class_names') == b.model.get('class_names'):
        found.append(Obstacle('not the same truth', 'labels differ', 'accuracy'))
    return found


def find_warnings(a: ReplayResult, b: ReplayResult, names: tuple[str, str]) -> Iterator[str]:
    """Find what limits the comparison without stopping a figure, a sentence each."""
    for name, result in zip(names, (a, b), strict=True):
        frames = len(result.frames)
        if result.interrupted:
            yield f'{name} was interrupted: it saw {frames} frames.'
        elif frames < FEW_FRAMES:
            yield f'{name} has {frames} frames: its 99th percentiles hang on one or two of them.'
    if single := [name for name, each in zip(names, (a, b), strict=True) if len(each.passes) < 2]:
        yield (
            f'One pass of {" and of ".join(single)}: how much latency, loss and load differ from '
            f'run to run is not known, {100 * RUN_SCATTER:g} % is assumed. --repeat 5 measures it.'
        )
    jobs = a.configuration.get('jobs') or 1
    if jobs != 1 and jobs == b.configuration.get('jobs'):
        yield f'{jobs} replays shared the machine: latencies are those of a busy one.'
    ours, theirs = (each.configuration.get('settings') or {} for each in (a, b))
    if differs := _differing(ours, theirs, {**ours, **theirs}):
        yield f'Different settings ({differs}).'
    others = ours.get('thresholds') != theirs.get('thresholds')
    keys = ('thresholds', 'view_thresholds')
    if others or any(a.model.get(key) != b.model.get(key) for key in keys):
        yield (
            'The thresholds differ: mAP50 is of what was published, and ends where a threshold '
            'cuts it off.'
        )
    if changed := [k for k in (*SOFTWARE, 'versions') if a.host.get(k) != b.host.get(k)]:
        yield f'Different software: {", ".join(changed)}.'
    if a.host.get('git_dirty') or b.host.get('git_dirty'):
        yield 'The code was changed since its commit.'


def pace_text(configuration: Mapping[str, Any]) -> str:
    """Tell when the pictures were sent, in a few words; '' where it is not known."""
    pace = configuration.get('pace')
    if not isinstance(pace, Mapping):
        return ''
    rate = pace.get('rate', 1.0)
    as_recorded = 'as recorded' if rate == 1 else f'{rate:g} times as fast as recorded'
    return {
        'hz': f'each camera at {pace.get("hz", 0):g} Hz',
        'fast': f'as fast as possible, {pace.get("in_flight")} in flight',
    }.get(str(pace.get('kind')), as_recorded)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], keys: Iterable[str]) -> str:
    """`kernel: 6 and 7; gpu: none and RTX`; '' where all are the same."""
    return '; '.join(
        f'{key}: {_short(a.get(key))} and {_short(b.get(key))}'
        for key in keys
        if a.get(key) != b.get(key)
    )


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ' '.join(f'{key} {entry}' for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ', '.join(map(str, value)) or 'none'
    return str(value) or 'none'
