"""Sections about what a campaign had and did: events, data, leaks, pictures, recipe, machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from cone_perception.pages.blocks import Block, Bullets, Listing, Picture, Table, Text
from cone_perception.pages.page import embed_picture
from training.data.report import distribution_charts, split_table
from training.judging.evaluation import ARRAYS_FILE, load_evaluation
from training.judging.metrics import FIXED_CONFIDENCE
from training.judging.page import confusion_table, precision_chart, worst_pictures
from training.runs.progress import duration
from training.runs.record import CampaignRecord

PROBLEMS_SHOWN = 10


def time_text(text: Any) -> str:
    """2026-02-01T08:00:00+00:00 -> 2026-02-01 08:00 UTC."""
    return re.sub(r'T(\d\d:\d\d)(:\d\d)?\+00:00$', r' \1 UTC', str(text or ''))


def events(record: CampaignRecord) -> Iterator[Block]:
    told = [event for event in record.events if event.get('kind') in ('warning', 'error')]
    yield Text(f'Warnings and errors: {len(told)}.' if told else 'No warning and no error.')
    rows = [
        [
            time_text(event.get('time')),
            ' '.join(filter(None, (event.get('run'), event.get('step')))),
            f'{event["kind"]}: {event.get("name", "")}',
            str(event.get('message', '')),
        ]
        for event in told[-200:]
    ]
    yield Table(['time', 'where', 'what', 'message'], rows, words=[1, 2, 3])
    checks = [
        (tuple(str(event.get(key, '')) for key in ('run', 'step', 'name')), event)
        for event in record.events
        if event.get('kind') == 'guard'
    ]
    times, last = Counter(key for key, _ in checks), dict(checks)
    yield Table(
        ['run', 'stage', 'guard', 'times', 'last'],
        [[*key, str(n), str(last[key].get('message', ''))] for key, n in times.items()],
        words=[1, 2, 4],
        title='What the guards checked, and what they said last:',
    )


def data(record: CampaignRecord) -> Iterator[Block]:
    datasets = record.recipe.get('datasets') or {}
    head, rows = [], []
    for name, report in record.verifications.items():
        expected = datasets.get(name, {}).get('images') or {}
        head, *splits = split_table(report.get('counts', {}), expected, name)
        rows += splits
    if not rows:
        yield Text('No data set has been verified yet.')
        return
    note = (
        'Dropped: pictures that Ultralytics would leave out without a word, because a line of '
        'their label is wrong.'
    )
    yield Table(head, rows, note=note)
    for name, report in record.verifications.items():
        if report:
            yield from _verification(record, name, report)
            yield from distribution_charts(report['counts'], name)


def _verification(record: CampaignRecord, name: str, report: Mapping[str, Any]) -> Iterator[Block]:
    manifest = report.get('manifest_sha256') or 'none'
    mapping = (report.get('mapping') or {}).items()
    renamed = ', '.join(f'{own} is {project}' for own, project in mapping if own != project)
    verified = 'verified' if report.get('ok') else 'FAILED verification'
    classes = f'; classes mapped: {renamed}' if renamed else ''
    yield Text(f'{name}: {verified}; manifest sha256 `{manifest}`{classes}.')
    problems = report.get('problems') or []
    kinds = Counter(problem['kind'] for problem in problems)
    yield Table(
        ['file', 'kind', 'message'],
        [
            [str(p['file']), f'{p["kind"]}{" (fatal)" if p["fatal"] else ""}', str(p['message'])]
            for p in problems[:PROBLEMS_SHOWN]
        ],
        words=[1, 2],
        note=f'All: data/{name}/verify.json.' if len(problems) > PROBLEMS_SHOWN else '',
        title=f'{len(problems)} findings in {name}: '
        + ', '.join(f'{number} {kind}' for kind, number in kinds.most_common()),
    )


def leaks(record: CampaignRecord) -> Iterator[Block]:
    used = (record.recipe.get('leaks') or {}).get('exclude', True)
    verb = 'left out of training' if used else 'that stay in training (leaks.exclude: false)'
    if not record.leaks:
        yield Text('Near-duplicates have not been looked for yet.')
    for path, report in record.leaks.items():
        if not report:
            continue
        sets, excluded = ', '.join(report.get('sets', {})), report.get('exclusions', {}).items()
        if counts := report.get('counts') or []:
            yield Table(
                ['pictures of', 'like pictures of', 'pairs'],
                [[str(a), str(b), f'{number:,}'] for a, b, number in counts],
                words=[1],
                note=f'Pairs that differ in at most {report.get("bits")} of 256 bits of a '
                'difference hash, mirror images included.',
            )
        else:
            yield Text(f'{sets}: no two pictures differ in {report.get("bits")} bits or less.')
        numbers = ', '.join(f'{len(paths)} of {name}' for name, paths in excluded) or 'none'
        yield Text(f'Training pictures like one of a val or test split, {verb}: {numbers}.')
        if consecutive := report.get('consecutive'):
            yield Text(
                f'{len(consecutive)} pairs of consecutive file numbers lie in different splits: '
                'frames of one drive may judge what they trained.'
            )
        source = embed_picture(path.with_suffix('.png'), 1600)
        if source:
            yield Picture(source, f'The closest pairs of {sets}.')


def pictures(record: CampaignRecord) -> Iterator[Block]:
    evaluations = {
        run: load_evaluation(folder)
        for run in chain(*record.runs().values())
        if ((folder := record.folder.evaluation(run, 'test')) / ARRAYS_FILE).is_file()
    }
    confidence = record.judging.get('confidence', FIXED_CONFIDENCE)
    for run, evaluation in evaluations.items():
        yield precision_chart(evaluation, run)
        yield confusion_table(evaluation, confidence, run)
    for run, evaluation in evaluations.items():
        yield worst_pictures(evaluation, confidence, run)


def recipe(record: CampaignRecord) -> Iterator[Block]:
    used = record.recipe
    if used:
        yield Text(
            f'Starts from `{used.get("model")}`; target `{used.get("target")}`; seeds '
            f'{used.get("seeds")}; device {used.get("device")}; selected by '
            f'{used.get("select_by")}; sha256 `{record.state.recipe_sha256}`.'
        )
    keys = {
        'data': 'data',
        'epochs': 'epochs',
        'batch': 'batch',
        'imgsz': 'input, px',
        'optimizer': 'optimizer',
        'lr0': 'peak rate',
        'last': 'last rate',
        'patience': 'patience',
        'freeze': 'frozen',
    }
    rows = []
    for kind, before in (('stages', ''), ('baseline', 'single-stage: ')):
        for stage in used.get(kind) or ():
            last = f'{stage["lr0"] * stage["lrf"]:.3g}'
            shown = {**stage, 'lr0': f'{stage["lr0"]:g}', 'last': last}
            rows.append([f'{before}{stage["name"]}', *(str(shown[key]) for key in keys)])
    yield Table(['stage', *keys.values()], rows, words=[1, 5])
    if record.recipe_text:
        yield Listing('recipe.yaml, as it was run', record.recipe_text, 'yaml')


def machine(record: CampaignRecord) -> Iterator[Block]:
    state, energy = record.state, record.state.energy_wh
    hardware = dict(state.hardware)
    if 'gpus' in hardware:
        hardware['gpus'] = '; '.join(' '.join(gpu.values()) for gpu in hardware['gpus']) or 'none'
    rows = [
        ['commit', f'`{state.commit}`' if state.commit else 'not known'],
        *([key.replace('_', ' '), str(value)] for key, value in hardware.items()),
        ['versions', ', '.join(f'{name} {version}' for name, version in state.versions.items())],
        ['energy of the GPUs', f'{energy:.1f} Wh' if energy is not None else 'not measured'],
    ]
    yield Table(['what', 'is'], rows, words=[1])
    offline = 'in this folder: `wandb sync wandb/offline-run-*`'
    tracked = [
        [str(one.get('name', '')), str(one.get('mode', 'not started')), one.get('url') or offline]
        for one in record.tracked
    ]
    yield Table(['W&B run', 'mode', 'where'], tracked, words=[1, 2])
    steps = [
        [name, step.status, duration(step.seconds) if step.seconds else '']
        for name, step in state.steps.items()
    ]
    yield Table(['step', 'status', 'time'], steps, words=[1])


def missing(record: CampaignRecord) -> Iterator[Block]:
    # The report's own step is at work while this is written.
    yield Bullets([text for text in record.missing if not text.startswith('Step `report`')])
