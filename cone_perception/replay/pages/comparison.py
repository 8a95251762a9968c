"""A comparison of replays, for a terminal and as a page that needs no network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cone_perception.accuracy.intervals import Float64, Interval
from cone_perception.files import write_json
from cone_perception.pages.old import legend, plain, table, write_page
from cone_perception.replay.figures.comparable import MACHINE, pace_text
from cone_perception.replay.figures.compare import (
    ComparedResults,
    FigureDifference,
    ReplayComparison,
    to_json,
)
from cone_perception.replay.figures.names import kind_of
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.charts import SERIES_COLOURS, Chart
from cone_perception.replay.traces import STATIONS

MAIN_FIGURES = (
    *('latency_p50_ms', 'latency_p99_ms', 'own_cost_p50_ms', 'age_at_publish_p99_ms'),
    *('answered_share', 'transport_share', 'dropped_share', 'failed_share', 'rate_out_hz'),
    *('precision_sent', 'recall_sent', 'map50_sent', 'precision_answered', 'recall_answered'),
    *('map50_answered', 'flicker_share', 'agreement_f1', 'max_rate_hz'),
    *('node_cpu_cores', 'node_memory_peak_mb', 'node_memory_slope_mb_per_min'),
)
"""Printed in any case; of the others those with a clear verdict."""

TIMES = (
    *(f'latency_{name}_ms' for name in ('mean', 'p50', 'p90', 'p95', 'p99')),
    *(f'station_{name}_{at}_ms' for name in STATIONS for at in ('p50', 'p99')),
    *('own_cost_p50_ms', 'own_cost_p99_ms', 'age_at_publish_p50_ms', 'age_at_publish_p99_ms'),
)
STEPS = 400
"""Points of a line: more are not seen."""

WIDTH_PX, NAME_PX, ROW_PX, RESULT_PX = 1000, 250, 12, 11


def write_comparison(folder: Path, compared: ComparedResults) -> None:
    """Write comparison.json and comparison.html. Raises OSError."""
    write_json(folder / 'comparison.json', to_json(compared), indent=1)
    accuracy = [
        each.name
        for each in compared.comparisons[0].differences
        if each.name.startswith(('precision', 'recall', 'map50', 'ap50'))
    ]
    write_page(
        folder / 'comparison.html',
        'comparison.html',
        subtitle=plain(f'{", ".join(compared.names[1:])} against {compared.names[0]}'),
        comparisons=''.join(map(_summary, compared.comparisons)),
        latency=_latency_charts(compared),
        times=_bars(compared, TIMES),
        accuracy=(
            f'<section><h2>Accuracy</h2>{_bars(compared, accuracy, highest=1.0)}</section>'
            if accuracy
            else ''
        ),
        figures=_figures_table(compared),
        about=_about_table(compared),
    )


def comparison_text(compared: ComparedResults) -> str:
    """For a terminal: what limits the comparison first, then the figures that matter."""
    lines = []
    for comparison in compared.comparisons:
        lines += [f'{comparison.name} against {compared.names[0]}', *_notes(comparison)]
        twins = '_answered' if comparison.sent == comparison.answered else 'none'
        shown = [
            each
            for each in comparison.differences
            if (each.name in MAIN_FIGURES or each.verdict in ('better', 'worse'))
            and twins not in each.name
        ]
        width = max((len(each.name) for each in shown), default=0)
        lines += [_line(each, width) for each in shown]
        others = [each for each in comparison.differences if each not in shown]
        lines += [f'The other {len(others)} figures: {_counts(others)}.'] if others else []
        lines.append('')
    lines.append(
        'Difference: less the baseline; in brackets 95 % intervals. Of 20 one misses the truth.'
    )
    return '\n'.join(lines)


def _line(each: FigureDifference, width: int) -> str:
    name = each.name
    return (
        f'  {name:{width}}  {_number(name, each.baseline.value):>8} -> '
        f'{_number(name, each.other.value):>8} {_unit(name):6} '
        f'{_number(name, each.difference.value, signed=True):>8} '
        f'{_interval(name, each.difference, signed=True):20} {each.verdict}{_because(each)}'
    ).rstrip()


def _because(each: FigureDifference) -> str:
    """In short; what is assumed of single runs is among the notes."""
    short = each.why.partition(',')[0]
    return '' if each.verdict == 'equal' or 'paired' in short else f' ({short})'


def _notes(comparison: ReplayComparison) -> list[str]:
    paired = (
        f'{comparison.sent} frames both were sent, {comparison.answered} both answered.'
        if comparison.sent
        else 'No frame in common.'
    )
    return [f'  ! {note}' for note in comparison.notes] + [f'  {paired}']


def _counts(differences: Iterable[FigureDifference]) -> str:
    counts = Counter(each.verdict for each in differences)
    return ', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())


def _summary(comparison: ReplayComparison) -> str:
    notes = ''.join(f'<li>{plain(note)}</li>' for note in comparison.notes)
    clear = [
        f'<span class="{each.verdict}">{each.verdict}</span> {plain(each.name)}: '
        f'{_number(each.name, each.difference.value, signed=True)} {_unit(each.name)}'
        f'{_because(each)}'
        for each in comparison.differences
        if each.verdict in ('better', 'worse') and each.name in MAIN_FIGURES
    ]
    return (
        f'<section><h2>{plain(comparison.name)}</h2><ul class="notes">{notes}</ul>'
        f'<p>{comparison.sent} frames both were sent, {comparison.answered} both answered. '
        f'All figures: {_counts(comparison.differences)}.</p>'
        f'<p>{"<br>".join(clear)}</p></section>'
    )


def _latency_charts(compared: ComparedResults) -> str:
    """Share of the answers that came within a time: all of them, and the last tenth."""
    series = [_latencies(result) for result in compared.results]
    if not any(map(len, series)):
        return '<p>No answers.</p>'
    start = min(float(values[0]) for values in series if len(values))
    p99 = max(float(np.quantile(values, 0.99)) for values in series if len(values))
    end = max(float(values[-1]) for values in series if len(values))
    charts = ''
    for low, name, last in ((0.0, 'all answers', p99), (90.0, 'the last tenth', end)):
        chart = Chart(name, (start, max(last, start + 1e-3)), (low, 100.0), x_name='ms', y_name='%')
        for values, colour in zip(series, _colours(compared), strict=True):
            shares = np.linspace(low / 100, 1, STEPS)
            if len(values):
                at = np.quantile(values, shares, method='inverted_cdf')
                kept = at <= last
                chart.line(
                    zip(at[kept].tolist(), (100 * shares[kept]).tolist(), strict=True), colour
                )
        charts += f'<h3>{name}</h3>{chart.svg()}'
    return charts + _legend(compared)


def _bars(compared: ComparedResults, names: Sequence[str], highest: float = 0.0) -> str:
    """A row for each figure, in it a bar for each result with its interval."""
    results = compared.results
    shown = [
        name
        for name in names
        if any(math.isfinite(_figure(result, name).value) for result in results)
    ]
    if not shown:
        return '<p>Nothing is known of these.</p>'
    most = highest or max(
        end
        for result in results
        for name in shown
        for end in (_figure(result, name).value, _figure(result, name).high)
        if math.isfinite(end)
    )
    scale = (WIDTH_PX - NAME_PX - 70) / (most or 1.0)
    row_px = ROW_PX + RESULT_PX * len(results)
    parts = ''
    for row, name in enumerate(shown):
        top = row * row_px
        parts += f'<text x="0" y="{top + row_px / 2 + 4:.1f}">{plain(name)}</text>'
        for number, (result, colour) in enumerate(zip(results, _colours(compared), strict=True)):
            figure = _figure(result, name)
            if not math.isfinite(figure.value):
                continue
            y = top + ROW_PX / 2 + RESULT_PX * number
            parts += (
                f'<rect x="{NAME_PX}" y="{y:.1f}" width="{figure.value * scale:.1f}" '
                f'height="{RESULT_PX - 2}" fill="{colour}" opacity=".55">'
                f'<title>{plain(compared.names[number])}: {_number(name, figure.value)} '
                f'{_interval(name, figure)}</title></rect>'
            )
            ends = NAME_PX + max(figure.value, 0) * scale
            if math.isfinite(figure.low) and math.isfinite(figure.high):
                low, high = (NAME_PX + end * scale for end in (figure.low, figure.high))
                ends = max(ends, high)
                middle = y + (RESULT_PX - 2) / 2
                parts += (
                    f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="{colour}" '
                    'stroke-width="3"/>'
                )
            parts += (
                f'<text x="{ends + 6:.1f}" y="{y + 9:.1f}">{_number(name, figure.value)}</text>'
            )
    height = row_px * len(shown)
    return (
        f'<svg viewBox="0 0 {WIDTH_PX} {height}" role="img" aria-label="figures with intervals">'
        f'{parts}</svg>{_legend(compared)}'
    )


def _figures_table(compared: ComparedResults) -> str:
    """All figures; for each result but the first its difference and its verdict."""
    head = ['figure', '', plain(compared.names[0])]
    for name in compared.names[1:]:
        head += [plain(name), 'difference', 'verdict']
    rows = []
    names = dict.fromkeys(
        each.name for comparison in compared.comparisons for each in comparison.differences
    )
    for name in names:
        what = plain(kind_of(name).what)
        row = [f'<span title="{what}">{plain(name)}</span>', _unit(name)]
        row.append(_cell(name, _figure(compared.results[0], name)))
        for comparison, result in zip(compared.comparisons, compared.results[1:], strict=True):
            try:
                each = comparison[name]
            except KeyError:
                row += ['', '', '']
                continue
            row += [
                _cell(name, _figure(result, name)),
                _cell(name, each.difference, signed=True),
                f'<span class="{each.verdict}" title="{plain(each.why)}; equal within '
                f'{_number(name, each.margin)}">{each.verdict}</span>',
            ]
        rows.append(row)
    return table(head, rows)


def _about_table(compared: ComparedResults) -> str:
    def row(title: str, values: Sequence[object]) -> list[str]:
        cells = [plain('–' if value is None else value) for value in values]
        differs = len(set(cells)) > 1
        return [plain(title), *(f'<b>{cell}</b>' if differs else cell for cell in cells)]

    results = compared.results
    rows = [
        row('result', [str(path) for path in compared.paths]),
        row('bag', [result.bag.get('path') for result in results]),
        row('its sha256', [str(result.bag.get('sha256'))[:16] for result in results]),
        row('through', [result.configuration.get('through') for result in results]),
        row('pace', [pace_text(result) for result in results]),
        row('passes', [len(result.passes) for result in results]),
        row('model', [result.model.get('name') for result in results]),
        row('engine', [result.model.get('engine') for result in results]),
        row('network', [str(result.model.get('network_sha256'))[:16] for result in results]),
        *(row(what, [result.host.get(what) for result in results]) for what in MACHINE),
        *(
            row(what, [result.host.get(what) for result in results])
            for what in ('driver', 'cuda', 'kernel', 'python', 'ros_distro', 'rmw', 'git_commit')
        ),
    ]
    return table(['', *map(plain, compared.names)], rows)


def _latencies(result: ReplayResult) -> Float64:
    """(N,) float64, sorted, ms."""
    found = [frame.latency_ms for frames in result.passes for frame in frames]
    return np.sort(np.array([value for value in found if value is not None], np.float64))


def _figure(result: ReplayResult, name: str) -> Interval:
    return result.figures.get(name, Interval(math.nan))


def _colours(compared: ComparedResults) -> list[str]:
    count = len(SERIES_COLOURS)
    return [f'var(--{SERIES_COLOURS[i % count]})' for i in range(len(compared.results))]


def _legend(compared: ComparedResults) -> str:
    return legend(zip(_colours(compared), map(plain, compared.names), strict=True))


def _cell(name: str, figure: Interval, signed: bool = False) -> str:
    interval = _interval(name, figure, signed)
    return _number(name, figure.value, signed) + (f' <small>{interval}</small>' if interval else '')


def _unit(name: str) -> str:
    unit = kind_of(name).unit
    return '%' if unit == 'share' else unit


def _number(name: str, value: float, signed: bool = False) -> str:
    if not math.isfinite(value):
        return '–'
    unit = kind_of(name).unit
    scaled = 100 * value if unit == 'share' else value
    digits = 0 if unit in ('frames', 'MHz') or abs(scaled) >= 1000 else 1
    digits = 2 if unit in ('cores', 'cones') else digits
    return f'{scaled:{"+" if signed else ""}.{digits}f}'


def _interval(name: str, figure: Interval, signed: bool = False) -> str:
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return ''
    return f'[{_number(name, figure.low, signed)}, {_number(name, figure.high, signed)}]'
