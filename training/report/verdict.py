"""Sections that judge a campaign: the verdict, the baselines, figures by class, size and sweep."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from cone_perception.accuracy.intervals import Interval
from cone_perception.pages.blocks import Block, Bullets, Table, Text, Tile, Tiles
from cone_perception.pages.charts import chart, intervals, line
from cone_perception.pictures.draw import short_name
from training.judging.compare import Comparison
from training.judging.compare_command import comparison_blocks, difference_chart
from training.judging.metrics import TITLES
from training.judging.verdict import outcome_of
from training.report.numbers import (
    TONES,
    count,
    difference_text,
    figure,
    mean_figure,
    number,
    overall,
    signed,
    span,
)
from training.runs.progress import duration
from training.runs.record import CampaignRecord

MEANINGS = {
    'better': 'The 95 % interval of the difference lies above 0: the choice of test pictures does '
    'not explain the gain.',
    'equal': 'The whole 95 % interval lies within the margin: whatever the difference is, it is '
    'too small to matter, and the simpler model stays.',
    'worse': 'The 95 % interval of the difference lies below 0: the candidate lost accuracy.',
    'inconclusive': 'The interval holds 0 and reaches beyond the margin: better, equal and worse '
    'all remain possible. Not enough evidence is a result: the simpler model stays, and more '
    'pictures or more trainings are what could tell.',
    'better but below target': 'It beats the baseline, but not the figures that were set as '
    'success before the training.',
    'not compared': 'There was no baseline to compare with, so nothing is decided.',
}


def verdict(record: CampaignRecord) -> Iterator[Block]:
    state, found, outcome = record.state, record.verdict, record.outcome
    yield Text(str(found.get('sentence') or state.message or 'There is no verdict yet.'), '', True)
    yield from _tiles(record)
    if not found:
        yield _standing(record)
        return
    decided = str(found.get('outcome', ''))
    if outcome and outcome != decided:
        yield Text(f'The campaign ended otherwise: {outcome}. {state.message}')
    if decided in MEANINGS:
        yield Text(f'What `{decided}` means: {MEANINGS[decided]}')
    yield from _forest(record)
    yield Bullets(found.get('reasons', ()))
    if steps := found.get('next_steps'):
        yield Text('Next:')
        yield Bullets([re.sub(r'((?:cone-training|ros2) .*)$', r'`\1`', step) for step in steps])
    for signature in state.signatures:
        remedies = ', '.join(f'`{name}`' for name in signature.get('remedies', ()))
        yield Text(
            f"The strategy's issue {signature['issue']} ({signature['name']}) shows in "
            f'{signature["run"]}: {signature["message"]} '
            + (f'Recipes to try: {remedies}.' if remedies else 'There is no recipe against it.')
        )


def _standing(record: CampaignRecord) -> Text:
    steps, left = record.state.steps, record.state.unfinished()
    where = f'{len(steps) - len(left)} of {len(steps)} steps are done'
    if not left:
        return Text(f'{where}.')
    if steps[left[0]].status == 'failed':
        return Text(f'{where}; `{left[0]}` failed. {record.state.message}')
    return Text(f'{where}; `{left[0]}` is next or at work. This page shows what there is.')


def _tiles(record: CampaignRecord) -> Iterator[Block]:
    tiles = []
    if own := record.comparison.get('own', {}).get('map50'):
        tiles.append(Tile(figure(own['value']), f'test mAP50 of {record.candidate}'))
    if against := record.verdict.get('against'):
        found, tone = against[0]['difference'], TONES.get(against[0]['outcome'], '')
        words = f'against {against[0]["label"]}, 95 %: {span(found)}'
        tiles.append(Tile(signed(found['value']), words, tone))
    if gates := record.verdict.get('gates'):
        passed = [gate for gate in gates if gate['passed']]
        unproven = sum(not gate['proven'] for gate in passed)
        note = f', {unproven} unproven' if unproven else ''
        tone = 'bad' if len(passed) < len(gates) else 'unsure' if unproven else 'good'
        words = f'figures of the success table{note}'
        tiles.append(Tile(f'{len(passed)} of {len(gates)}', words, tone))
    runs = {t.run for t in record.trainings if t.arm == record.candidate and t.epochs}
    if runs:
        words = 'training of the candidate: judges these weights, not the strategy'
        words = 'trainings of the candidate' if len(runs) > 1 else words
        tiles.append(Tile(str(len(runs)), words))
    if seconds := sum(step.seconds for step in record.state.steps.values()):
        energy = record.state.energy_wh
        note = f', {energy / 1000:.2f} kWh of the GPUs' if energy is not None else ''
        tiles.append(Tile(duration(seconds), f'of work{note}'))
    if tiles:
        yield Tiles(tiles)


def _forest(record: CampaignRecord) -> Iterator[Block]:
    """Differences from the baselines, beside the band that counts as equal."""
    rows: dict[tuple[str, str], list[tuple[str, float, float, float]]] = {}
    for against in record.verdict.get('against', ()):
        value, low, high = (number(against['difference'][key]) for key in ('value', 'low', 'high'))
        if math.isfinite(value + low + high):
            name = against['label'].replace('(published, not paired)', '(published)')
            kind = 'published' if against['published'] else 'paired'
            colour = '--dim' if low <= 0 <= high else '--blue'
            rows.setdefault((kind, colour), []).append((name, value, low, high))
    traces = [
        intervals(kind, lines, colour, hollow=kind == 'published')
        for (kind, colour), lines in rows.items()
    ]
    if traces:
        note = 'Hollow: a published figure, not paired. Grey: the interval holds 0.'
        yield difference_chart('difference', traces, record.candidate, record.margin, note)


def baselines(record: CampaignRecord) -> Iterator[Block]:
    against = {line['baseline']: line for line in record.verdict.get('against', ())}
    tests = record.tests()
    rows = [
        [
            arm,
            str(len(found)),
            *(mean_figure(overall(test)[name] for test in found) for name in TITLES),
            *_difference(against.get(arm)),
        ]
        for arm, found in tests.items()
    ]
    for name, printed in (record.judging.get('published') or {}).items():
        published = [figure(printed.get(metric)) for metric in TITLES]
        label = f'{name} (published, not paired)'
        rows.append([label, '', *published, *_printed_difference(record, printed)])
    if not rows:
        yield Text('No model has been evaluated on the test pictures yet.')
        return
    confidence = record.judging.get('confidence', 0.25)
    yield Table(
        ['model', 'trainings', *TITLES.values(), 'difference in mAP50 (95 %)', 'says'],
        rows,
        words=[len(TITLES) + 3],
        strong=[place for place, arm in enumerate(tests) if arm == record.candidate],
        note='Of several trainings the mean. Difference: the candidate minus that model. Precision '
        'and recall are at the best F1 of each model, so not at the same point; fixed: at '
        f'confidence {confidence:g} for all. A published figure is what somebody printed: its own '
        'error is unknown and nothing is paired.',
    )
    for comparison in record.comparison.get('comparisons', ()):
        yield from comparison_blocks(Comparison.from_json(comparison), record.margin, TITLES)
    yield from _seeds(record)


def _difference(line: Mapping[str, Any] | None) -> list[str]:
    return ['', ''] if line is None else [difference_text(line['difference']), line['outcome']]


def _printed_difference(record: CampaignRecord, printed: Mapping[str, Any]) -> list[str]:
    """Difference of the candidate from a published figure, taken as exact."""
    own, published = record.comparison.get('own', {}).get('map50'), printed.get('map50')
    if not own or published is None:
        return ['', '']
    found = Interval.from_json(own) - float(published)
    return [difference_text(asdict(found)), outcome_of(found, record.margin).label]


def _seeds(record: CampaignRecord) -> Iterator[Block]:
    rows = []
    for arm, runs in record.runs().items():
        tests = {run: overall(test) for run in runs if (test := record.test(run))}
        if len(tests) > 1:
            rows += [[run, *map(figure, test.values())] for run, test in tests.items()]
            values = [[number(value) for value in test.values()] for test in tests.values()]
            spread = np.std(values, axis=0, ddof=1)
            rows.append([f'{arm}: standard deviation', *map(figure, spread)])
    if rows:
        yield Text('Each training:')
        yield Table(['training', *TITLES.values()], rows)


def gates(record: CampaignRecord) -> Iterator[Block]:
    if found := record.verdict.get('gates'):
        rows = [
            [
                TITLES[gate['metric']],
                f'{gate["limit"]:g}',
                figure(gate['figure']['value']),
                span(gate['figure'], figure),
                str(gate['status']),
            ]
            for gate in found
        ]
        yield Table(
            ['figure', 'must exceed', 'is', '95 %', ''],
            rows,
            words=[4],
            note='The figure decides. Unproven: its 95 % interval holds the limit, so other '
            'pictures of the same kind could turn it.',
        )
    elif record.judging.get('success'):
        yield Text('The figures that the recipe asks for have not been judged yet.')


def per_class(record: CampaignRecord) -> Iterator[Block]:
    evaluated = (what.get('test', {}).get('class_names') for what in record.evaluations.values())
    names: list[str] = next(filter(None, evaluated), [])

    def cells(test: Mapping[str, Any], name: str) -> tuple[Any, Any]:
        entry = test.get('per_class', {}).get(name, {})
        return entry.get('truths'), entry.get('ap50')

    labels = {name: (short_name(name), f'map50 {name}') for name in names}
    yield from _breakdown(record, 'class', labels, cells)
    tests = record.tests().get(record.candidate)
    if tests and names:
        keys = ('ap50_95', 'precision', 'recall', 'fixed_precision', 'fixed_recall')
        rows = [
            [short_name(name), *(mean_figure(entry[key] for entry in entries) for key in keys)]
            for name in names
            if (entries := [test['per_class'][name] for test in tests])
        ]
        yield Text(f'{record.candidate} in detail:')
        yield Table(
            ['class', 'AP50-95', 'precision', 'recall', 'precision, fixed', 'recall, fixed'], rows
        )


def per_size(record: CampaignRecord) -> Iterator[Block]:
    first = next((test for tests in record.tests().values() for test in tests), {})
    labels = {}
    for band in first.get('bands', ()):
        low, high = band['low_px'], band['high_px']
        name = f'from {low:g} px' if high is None else f'{low:g}-{high:g} px'
        labels[str(low)] = (name, f'map50 {name}')

    def cells(test: Mapping[str, Any], low: str) -> tuple[Any, Any]:
        bands = test.get('bands', ())
        entry: Any = next((band for band in bands if str(band['low_px']) == low), {})
        return entry.get('truths'), entry.get('map50')

    yield from _breakdown(record, 'box height', labels, cells)
    if labels:
        yield Text('Heights as they would be in a picture 1280 pixels wide.')


def _breakdown(
    record: CampaignRecord,
    what: str,
    labels: Mapping[str, tuple[str, str]],
    cells: Callable[[Mapping[str, Any], str], tuple[Any, Any]],
) -> Iterator[Block]:
    """mAP50 of every model, row by row, and the paired difference from the deciding baseline.

    labels: key -> what is shown, and the figure's name in the comparison.
    """
    tests = record.tests()
    if not tests or not labels:
        return
    deciding = (record.verdict.get('against') or [{}])[0].get('baseline')
    compared = [c for c in record.comparison.get('comparisons', ()) if c['b'] == deciding]
    differences = [{d['name']: d['difference'] for d in c['differences']} for c in compared]
    first = next(iter(tests.values()))[0]
    rows = [
        [
            label,
            count(cells(first, key)[0]),
            *(mean_figure(cells(test, key)[1] for test in each) for each in tests.values()),
            *(difference_text(d[name]) if name in d else '' for d in differences),
        ]
        for key, (label, name) in labels.items()
    ]
    minus = [f'{c["a"]} minus {c["b"]} (95 %)' for c in compared]
    yield Table([what, 'cones', *(f'{name}, AP50' for name in tests), *minus], rows)


def sweep(record: CampaignRecord) -> Iterator[Block]:
    intervals: dict[str, Mapping[str, Any]] = {}
    for comparison in record.comparison.get('comparisons', ()):
        for row in comparison['differences']:
            if row['name'] == 'map50':
                intervals |= {comparison['a']: row['a'], comparison['b']: row['b']}
    for key in record.recipe.get('sweep') or {}:
        share = key.endswith('.fraction')
        title = 'pre-training pictures used, %' if share else key
        points = []
        for arm, tests in record.tests().items():
            name, _, value = arm.partition('=')
            if name == key and value:
                mean = sum(number(test['map50']) for test in tests) / len(tests)
                known = intervals.get(arm, {'low': None, 'high': None})
                points.append((float(value) * (100 if share else 1), mean, known, len(tests)))
        points.sort(key=lambda point: point[0])
        if not points:
            yield Text(f'No arm of the sweep over `{key}` has been tested yet.')
            continue
        means = [mean for _, mean, _, _ in points]
        error = {
            'type': 'data',
            'symmetric': False,
            'array': [number(known['high']) - mean for _, mean, known, _ in points],
            'arrayminus': [mean - number(known['low']) for _, mean, known, _ in points],
        }
        curve = line(key, [x for x, *_ in points], means, marks=True, error_y=error)
        yield chart(
            f'sweep-{key.replace(".", "-")}',
            [curve],
            x=title,
            y='test mAP50',
            caption='Test mAP50 with its 95 % interval over pictures.',
        )
        rows = [[f'{x:g}', figure(y), span(known, figure), str(n)] for x, y, known, n in points]
        yield Table([title, 'test mAP50', '95 %', 'trainings'], rows)
