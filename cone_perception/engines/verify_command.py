"""`cone-perception verify-engine`: what the first owner of a GPU runs, and sends the page back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import get_args

from cone_perception.engines.build_command import add_bundle
from cone_perception.engines.events import print_event
from cone_perception.engines.latency import Latency
from cone_perception.engines.tensorrt.order import BuildPolicy
from cone_perception.engines.verify import EngineReport, Verification, verify
from cone_perception.errors import OutputError
from cone_perception.files import write_whole
from cone_perception.model_card import read_bundle
from cone_perception.pages.blocks import Banner, Block, Cell, Listing, Page, Section, Table, Text
from cone_perception.pages.page import write_page
from cone_perception.types import GpuRuntimeChoice

COLUMNS = (
    'network', 'precision', 'batch', 'result', 'convolutions', 'score error', 'mean IoU',
    'network, ms', '720p to cones, ms', 'build, s', 'MB',
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument('--provider', choices=get_args(GpuRuntimeChoice), default='auto')
    parser.add_argument('--out', type=Path, default=Path(), help='folder for page and JSON')
    parser.add_argument('--runs', type=int, default=1000, help='timed runs per engine')


def run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.bundle)
    found = verify(bundle, args.provider, BuildPolicy(on_event=print_event), args.runs)
    path = args.out / f'verify-engine-{bundle.card.name}.html'
    write_page(path, make_page(found))
    try:
        write_whole(path.with_suffix('.json'), found.to_json())
    except OSError as error:
        raise OutputError(
            f'{path} cannot be written: {error.strerror}. Give a folder with --out.'
        ) from error
    for report in found.engines:
        passed = f'passed, {_ms(report.latency)} ms a run, {_ms(report.frame_latency)} ms from 720p'
        print(f'{report.precision}, batch {report.batch}: {report.failure or passed}')
    print(f'{path}: {"passed" if found.passed else "FAILED"}. Send this file back, please.')
    return 0 if found.passed else 1


def make_page(found: Verification) -> Page:
    """One page for a person; the JSON is inside of it too."""
    machine = {'command': found.command, **found.machine}
    return Page(
        f'Engines of {found.model["name"]}',
        f'{found.time}. Each engine built on this machine, compared with stored FP32 answers, '
        'timed in turns.',
        'passed' if found.passed else 'FAILED',
        'good' if found.passed else 'bad',
        [
            Section(
                'Engines',
                [Table(COLUMNS, [_row(report) for report in found.engines], words=(1, 3, 4))],
                note='Milliseconds: median (99th percentile), picture and answer in host memory.',
            ),
            Section('Machine', [Table((), [list(entry) for entry in machine.items()], words=(1,))]),
            *(
                Section(f'{r.network}: {r.precision}, batch {r.batch}', _details(r))
                for r in found.engines
            ),
            Section('Everything', [Listing('All of it as JSON', found.to_json(), 'json')]),
        ],
        wide=True,
    )


def _row(report: EngineReport) -> list[str | Cell]:
    passport, check = report.passport or {}, report.check or {}
    counts = ', '.join(f'{n} {p}' for p, n in passport.get('convolutions', {}).items())
    size = f'{passport["plan_bytes"] / 1e6:.1f}' if passport else ''
    return [
        report.network, report.precision, str(report.batch),
        Cell('failed', tone='bad') if report.failure else Cell('passed', tone='good'),
        counts, _figure(check.get('score_error_mean')), _figure(check.get('mean_iou')),
        _ms(report.latency), _ms(report.frame_latency), str(passport.get('build_s', '')), size,
    ]  # fmt: skip


def _details(report: EngineReport) -> list[Block]:
    blocks: list[Block] = []
    if report.failure:
        blocks += [Banner('It failed.'), Listing('', report.failure)]
    if report.launches:
        blocks.append(Text(f'Launched as: {report.launches}'))
    if report.messages:
        blocks += [Text('Messages of the compiler:'), Listing('', '\n'.join(report.messages[-50:]))]
    if report.passport:
        blocks.append(Listing('Passport', json.dumps(report.passport, indent=2), 'json'))
    return blocks


def _figure(value: float | None) -> str:
    return '' if value is None else f'{value:.4f}'


def _ms(latency: Latency | None) -> str:
    return f'{latency.median_ms:.3f} ({latency.p99_ms:.3f})' if latency else ''
