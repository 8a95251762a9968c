"""Replays side by side: is this one really better than that one?

result.json of each -> what differs between the runs -> the difference of each figure with its
interval -> a verdict -> table, comparison.json, comparison.html

The first result is the baseline. Accuracy is paired: only frames that both replays sent (`_sent`)
or answered (`_answered`) count, and both see the same resamples of the drive's seconds. All other
figures are of two independent runs: the interval of their difference comes from the two figures'
own intervals (MOVER, Zou and Donner 2008: each end is as far from the difference as both of the
ends that it hangs on are from their figures, added as squares), and those are of the block
bootstrap over frames, see `replay.statistics`. It keeps their skewness, and needs no second draw.

Frames of one run know nothing of what changes from run to run. So where both replays have several
passes, the interval is that over passes (Student's t, with the fewer passes' degrees of freedom)
if that is wider. With one pass of either, RUN_SCATTER is assumed for times and rates.
docs/decisions/comparing.md has what this does to the verdicts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cone_perception.errors import OutputError, SettingsError
from cone_perception.files import without_nan
from cone_perception.replay.figures.accuracy import accuracy_rows, interval_of
from cone_perception.replay.figures.names import kind_of
from cone_perception.replay.figures.result import Figure, ReplayResult, read_result, result_file
from cone_perception.replay.traces import FrameTrace, Pace, Pass

Verdict = Literal['better', 'worse', 'equal', 'higher', 'lower', 'inconclusive', 'not comparable']
"""better, worse: the whole interval of the difference is on that side of 0, and reaches beyond the
margin. higher, lower: the same of a figure of which neither is better. equal: the whole interval is
within the margin. inconclusive: none of these. not comparable: the runs differ in what it hangs
on."""


@dataclass(frozen=True, slots=True)
class Margin:
    """What counts as equal: the larger of an absolute difference and a share of the baseline's."""

    absolute: float
    relative: float = 0.0

    def of(self, baseline: float) -> float:
        """In the figure's unit."""
        return max(self.absolute, self.relative * abs(baseline))


MARGINS: Mapping[str, Margin] = {
    # The car moves 1 cm in 0.5 ms, and a twentieth of the latency changes no decision.
    'ms': Margin(0.5, 0.05),
    # Of frames as of cones: one in a hundred. The training's verdicts take the same.
    'share': Margin(0.01),
    'Hz': Margin(0.1, 0.02),
    'frames': Margin(0),
    'cones': Margin(0.05, 0.02),
    'cores': Margin(0.05, 0.05),
    'MB': Margin(10, 0.05),
    # 60 MB in an hour's drive.
    'MB/min': Margin(1),
    '%': Margin(5),
    'MHz': Margin(0, 0.05),
    '°C': Margin(3),
    'W': Margin(1, 0.05),
}
"""Unit of a figure -> what counts as equal."""

T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""97.5 % quantile of Student's t with 1, 2, ... degrees of freedom; beyond, 2.26 is kept."""

RUN_SCATTER = 0.05
"""Standard deviation of a time or a rate from run to run, as a share of it, where nothing shows it:
an assumption."""

SCATTERS = ('ms', 'Hz', 'cores')
"""Units of the figures that it concerns."""

FEW_FRAMES = 300
"""Below, the 99th percentile hangs on fewer than three frames."""

MACHINE = ('processor', 'cores_usable', 'gpu', 'governor')
SOFTWARE = ('driver', 'cuda', 'kernel', 'python', 'ros_distro', 'rmw', 'versions', 'git_commit')
ACCURACY = ('precision_', 'recall_', 'map50_', 'ap50_')
ANSWERS = (*ACCURACY, 'flicker_', 'detections_per_frame', 'agreement_')
"""Figures of what was answered. The others tell of time, loss and load."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two results.

    baseline, other: of the frames that count, which for accuracy may be fewer than in the results.
    difference: other minus baseline. margin: within it they are equal. why: how the interval comes
    about, or why there is no verdict.
    """

    name: str
    baseline: Figure
    other: Figure
    difference: Figure
    margin: float
    verdict: Verdict
    why: str = ''


@dataclass(frozen=True, slots=True)
class Comparison:
    """A result against the baseline. notes: what limits it, a sentence each.

    sent, answered: frames that both sent, and both answered.
    """

    name: str
    notes: tuple[str, ...]
    sent: int
    answered: int
    differences: tuple[Difference, ...]

    def __getitem__(self, name: str) -> Difference:
        """The difference of one figure; KeyError."""
        for each in self.differences:
            if each.name == name:
                return each
        raise KeyError(name)


@dataclass(frozen=True, slots=True, eq=False)
class ComparedResults:
    """Several results; the first is the baseline. names: a short one for each."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    results: tuple[ReplayResult, ...]
    comparisons: tuple[Comparison, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `replay compare` takes."""
    parser.add_argument(
        'results',
        type=Path,
        nargs='+',
        metavar='RESULT',
        help='result.json of a replay, or its folder; the first is the baseline',
    )
    parser.add_argument(
        '--out', type=Path, help='folder for comparison.json and comparison.html (none)'
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and write it where --out says."""
    from cone_perception.replay.pages.comparison import comparison_text, write_comparison

    compared = compare_results(args.results)
    print(comparison_text(compared))
    if args.out:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            write_comparison(args.out, compared)
        except OSError as error:
            raise OutputError(f'{args.out} cannot be written: {error}') from error
        print(f'page: {args.out / "comparison.html"}')
    return 0


def compare_results(paths: Sequence[Path], seed: int = 0) -> ComparedResults:
    """Compare each result with the first. Raises SourceError, SettingsError."""
    if len(paths) < 2:
        raise SettingsError('nothing to compare with: give two results or more.')
    files = tuple(map(result_file, paths))
    results = tuple(read_result(file) for file in files)
    names = _names(files)
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
) -> Comparison:
    """Every figure's difference, other minus baseline, with a verdict."""
    obstacles = tuple(_obstacles(baseline, other))
    sent = _keys(baseline.passes) & _keys(other.passes)
    answered = _keys(baseline.passes, answered=True) & _keys(other.passes, answered=True)
    paired: dict[str, Difference] = {}
    if not any(each.stops('recall_answered') for each in obstacles):
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
        stopped = next((each for each in obstacles if each.stops(name)), None)
        if stopped:
            found = replace(found, verdict='not comparable', why=stopped.what)
        differences.append(found)
    return Comparison(
        names[1],
        (*(each.note for each in obstacles), *_warnings(baseline, other, names)),
        len(sent),
        len(answered),
        tuple(differences),
    )


def to_json(compared: ComparedResults) -> dict[str, Any]:
    """As comparison.json holds it."""
    return {
        'schema': 1,
        'baseline': compared.names[0],
        'results': [
            {'name': name, 'path': str(path)}
            for name, path in zip(compared.names, compared.paths, strict=True)
        ],
        'comparisons': [without_nan(asdict(each)) for each in compared.comparisons],
    }


def verdict_of(name: str, difference: Figure, margin: float) -> Verdict:
    """What the interval of a difference, other minus baseline, says."""
    if math.isnan(difference.low) or math.isnan(difference.high):
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


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """What two runs differ in. answers, times: which figures it makes incomparable."""

    what: str
    note: str
    answers: bool
    times: bool
    accuracy: bool = False

    def stops(self, name: str) -> bool:
        if name.startswith(ACCURACY) and self.accuracy:
            return True
        # A frame that is lost is a miss in `_sent`: it hangs on time too.
        answers = name.startswith(ANSWERS) and '_sent' not in name
        return self.answers if answers else self.times


def _obstacles(a: ReplayResult, b: ReplayResult) -> Iterator[_Obstacle]:
    if a.bag.get('sha256') != b.bag.get('sha256'):
        yield _Obstacle(
            'not the same bag',
            f'Not the same bag ({_both(a.bag, b.bag, "path")}): nothing is comparable.',
            answers=True,
            times=True,
        )
    machine = [what for what in MACHINE if a.host.get(what) != b.host.get(what)]
    if machine:
        differs = '; '.join(f'{what}: {_both(a.host, b.host, what)}' for what in machine)
        yield _Obstacle(
            'not the same machine',
            f'Not the same machine ({differs}): latencies, losses and load are not comparable.',
            answers=False,
            times=True,
        )
    for what, title in (('through', 'way'), ('pace', 'pace'), ('jobs', 'number of jobs at once')):
        if a.configuration.get(what) != b.configuration.get(what):
            differs = _both(a.configuration, b.configuration, what)
            if what == 'pace':
                differs = f'{pace_text(a)} and {pace_text(b)}'
            yield _Obstacle(
                f'not the same {title}',
                f'Not the same {title} ({differs}): latencies, losses and load are not comparable.',
                answers=False,
                times=True,
            )
    if a.model.get('class_names') != b.model.get('class_names'):
        differs = _both(a.model, b.model, 'class_names')
        yield _Obstacle(
            'not the same classes',
            f'Not the same classes ({differs}): accuracy is not comparable.',
            answers=True,
            times=False,
            accuracy=True,
        )
    elif a.truth is not None and b.truth is not None and _truth_differs(a, b):
        yield _Obstacle(
            'not the same truth',
            'Not the same truth (labels differ): accuracy is not comparable.',
            answers=False,
            times=False,
            accuracy=True,
        )


def _warnings(a: ReplayResult, b: ReplayResult, names: tuple[str, str]) -> Iterator[str]:
    for name, result in zip(names, (a, b), strict=True):
        frames = sum(map(len, result.passes))
        if result.interrupted:
            yield f'{name} was interrupted: it saw {frames} frames.'
        elif frames < FEW_FRAMES:
            yield f'{name} has {frames} frames: its 99th percentiles hang on one or two of them.'
    single = [n for n, result in zip(names, (a, b), strict=True) if len(result.passes) < 2]
    if single:
        yield (
            f'One pass of {" and of ".join(single)}: how much latency, loss and load differ from '
            f'run to run is not known, {100 * RUN_SCATTER:g} % is assumed. --repeat 5 measures it.'
        )
    jobs = a.configuration.get('jobs') or 1
    if jobs != 1 and jobs == b.configuration.get('jobs'):
        yield f'{jobs} replays shared the machine: latencies are those of a busy one.'
    ours, theirs = (each.configuration.get('settings') or {} for each in (a, b))
    changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if changed:
        differs = '; '.join(f'{key}: {_both(ours, theirs, key)}' for key in changed)
        yield f'Different settings ({differs}).'
    if a.model.get('thresholds') != b.model.get('thresholds') or 'thresholds' in changed:
        yield (
            'The thresholds differ: mAP50 is of what was published, and ends where a threshold '
            'cuts it off.'
        )
    changed = [what for what in SOFTWARE if a.host.get(what) != b.host.get(what)]
    if changed:
        yield f'Different software: {", ".join(changed)}.'
    if a.host.get('git_dirty') or b.host.get('git_dirty'):
        yield 'The code was changed since its commit.'


def pace_text(result: ReplayResult) -> str:
    """When the pictures were sent, in a few words."""
    pace = result.configuration.get('pace') or {}
    kind = pace.get('kind')
    if kind == 'bag':
        return f'as recorded, times {pace.get("rate", 1):g}'
    return f'{pace.get("hz", 0):g} Hz' if kind == 'hz' else 'as fast as possible'


def _truth_differs(a: ReplayResult, b: ReplayResult) -> bool:
    ours, theirs = a.truth or {}, b.truth or {}
    return any(
        not np.array_equal(ours[key].xyxy_px, theirs[key].xyxy_px)
        or not np.array_equal(ours[key].class_id, theirs[key].class_id)
        for key in ours.keys() & theirs.keys()
    )


def _paired(
    a: ReplayResult,
    b: ReplayResult,
    part: str,
    keys: set[tuple[str, int]],
    seed: int,
) -> Iterator[Difference]:
    """Accuracy on these frames. The same frames and seed make the same resamples for both.

    part: of their names; `_sent` or `_answered`, empty for both.
    """
    keys = keys & (a.truth or {}).keys() & (b.truth or {}).keys()
    if not keys:
        return
    classes = a.model['class_names']
    rows_a, rows_b = (
        accuracy_rows(
            [
                Pass(Pace(), [frame for frame in frames if (frame.camera, frame.stamp_ns) in keys])
                for frames in result.passes
            ],
            a.truth or {},
            classes,
            result.model['thresholds'],
            seed,
        )
        for result in (a, b)
    )
    for name in rows_a:
        if part in name:
            difference = interval_of(rows_b[name] - rows_a[name])
            yield _judged(
                name,
                interval_of(rows_a[name]),
                interval_of(rows_b[name]),
                difference,
                f'paired by frame: {len(keys)} frames',
            )


def _unpaired(name: str, a: ReplayResult, b: ReplayResult, names: tuple[str, str]) -> Difference:
    unknown = Figure(math.nan)
    mine, theirs = _figure(name, a), _figure(name, b)
    missing = [
        n for n, figure in zip(names, (mine, theirs), strict=True) if math.isnan(figure.value)
    ]
    if missing:
        why = f'not known of {" and ".join(missing)}'
        return Difference(name, mine, theirs, unknown, math.nan, 'not comparable', why)
    difference = subtract(theirs, mine)
    over_passes = _over_passes(name, a, b, difference.value)
    why = 'from both intervals'
    if min(len(a.passes), len(b.passes)) < 2:
        why = 'of one run'
        if kind_of(name).unit in SCATTERS:
            difference = _widened(difference, 1.96 * math.sqrt(2) * RUN_SCATTER * mine.value)
            why = f'of one run, {100 * RUN_SCATTER:g} % from run to run assumed'
    if over_passes is not None and not _width(over_passes) <= _width(difference):
        difference, why = over_passes, 'over passes'
    if math.isnan(difference.low):
        why = 'no interval: --repeat gives one'
    if '_min_' in name or '_max_' in name:
        difference = Figure(difference.value)
        why = 'one frame decides it'
    return _judged(name, mine, theirs, difference, why)


def subtract(other: Figure, baseline: Figure) -> Figure:
    """The difference of two independent figures, with MOVER's interval (see the module)."""
    value = other.value - baseline.value
    return Figure(
        value,
        value - math.hypot(other.value - other.low, baseline.high - baseline.value),
        value + math.hypot(other.high - other.value, baseline.value - baseline.low),
    )


def _widened(difference: Figure, half: float) -> Figure:
    """With another, independent error whose interval is so wide to either side."""
    value = difference.value
    return Figure(
        value,
        value - math.hypot(value - difference.low, half),
        value + math.hypot(difference.high - value, half),
    )


def _over_passes(name: str, a: ReplayResult, b: ReplayResult, value: float) -> Figure | None:
    """The interval over passes; None where one of them has a single one."""
    of_both = []
    for result in (a, b):
        values = [each[name].value for each in result.per_pass if name in each]
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return None
        of_both.append(np.array(values))
    error = math.sqrt(sum(float(values.var(ddof=1)) / len(values) for values in of_both))
    freedom = min(map(len, of_both)) - 1
    half = T_975[min(freedom, len(T_975)) - 1] * error
    return Figure(value, value - half, value + half)


def _figure(name: str, result: ReplayResult) -> Figure:
    figure = result.figures.get(name, Figure(math.nan))
    if name == 'max_rate_hz':
        # It passed at this rate, and failed at the next one that was tried.
        failed = [each['hz'] for each in result.probes if not each['passed']]
        above = min((hz for hz in failed if hz > figure.value), default=math.nan)
        return Figure(figure.value, figure.value, above)
    if kind_of(name).unit == 'frames':
        return Figure(figure.value, figure.value, figure.value)
    return figure


def _judged(name: str, a: Figure, b: Figure, difference: Figure, why: str) -> Difference:
    margin = MARGINS.get(kind_of(name).unit, Margin(0)).of(a.value)
    return Difference(name, a, b, difference, margin, verdict_of(name, difference, margin), why)


def _width(figure: Figure) -> float:
    return figure.high - figure.low


def _keys(passes: Sequence[Sequence[FrameTrace]], answered: bool = False) -> set[tuple[str, int]]:
    """Camera and stamp of the frames; of the answered ones those that every pass answered."""
    of_passes = [
        {
            (frame.camera, frame.stamp_ns)
            for frame in frames
            if not answered or frame.found is not None
        }
        for frames in passes
    ]
    return set.intersection(*of_passes) if of_passes else set()


def _both(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> str:
    return f'{_short(a.get(what))} and {_short(b.get(what))}'


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ' '.join(f'{key} {entry}' for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ', '.join(map(str, value)) or 'none'
    return str(value) or 'none'


def _names(files: Sequence[Path]) -> tuple[str, ...]:
    """The folder's name of each, or the file's; with more of its path where two are equal."""
    parts = []
    for file in files:
        whole = file.resolve()
        parts.append((whole.parent if whole.name == 'result.json' else whole.with_suffix('')).parts)
    for depth in range(1, max(map(len, parts)) + 1):
        names = tuple('/'.join(each[-depth:]) for each in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(f'{index}: {each[-1]}' for index, each in enumerate(parts, 1))
