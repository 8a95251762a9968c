"""Sections that break the figures down: by class, by size, by the size of the pre-training set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cone_perception.pages.blocks import Block, Table, Text
from cone_perception.pages.charts import chart, line
from cone_perception.pictures.draw import short_name
from training.report.numbers import count, difference_text, figure, mean_figure, number, span
from training.runs.record import CampaignRecord


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
