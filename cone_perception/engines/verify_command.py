"""`cone-perception verify-engine`: what the first owner of a GPU runs, and sends the page back.

Every network of a bundle that TensorRT takes is built, compared and timed on this machine.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.engines import Engine, FrameEngine
from cone_perception.engines.build_command import add_order
from cone_perception.engines.check import (
    SURE,
    Latency,
    check_engine,
    match_pairs,
    measure_latencies,
    read_reference,
    run_all,
    run_of,
)
from cone_perception.engines.decode import decode
from cone_perception.engines.events import BuildEvent, print_event
from cone_perception.engines.machine import describe_host
from cone_perception.engines.tensorrt.order import (
    BuildPolicy,
    EngineOrder,
    make_order,
    networks_for_gpu,
)
from cone_perception.engines.tensorrt.plans import EnginePlan, record_check
from cone_perception.engines.tensorrt.provide import provide_engine
from cone_perception.errors import EngineError, ModelError, OutputError, told_as
from cone_perception.files import to_json, without_nan, write_json
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, NetworkFile, read_bundle
from cone_perception.pages.blocks import Banner, Block, Cell, Listing, Page, Section, Table, Text
from cone_perception.pages.page import write_page
from cone_perception.pipeline import ConeDetector
from cone_perception.preprocess import whole_view
from cone_perception.types import CameraPicture, Detections, Frame, GpuRuntimeChoice
from cone_perception.views import NOWHERE, Horizon, views_around


@dataclass(slots=True)
class EngineReport:
    """One network of the bundle on this machine.

    failure: empty when it was built and answers as FP32 does; else the reason.
    passport, check: as in the passport beside the plan. latency, frame_latency: of the engine
    alone, and from a 720p picture to cones; None where it did not come that far.
    launches: how the work reaches the GPU, as the engine says. messages: warnings and errors of
    the compiler.
    """

    network: str
    precision: str
    batch: int
    failure: str = ''
    passport: Mapping[str, Any] | None = None
    check: Mapping[str, Any] | None = None
    latency: Latency | None = None
    frame_latency: Latency | None = None
    launches: str = ''
    messages: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_order(parser)
    parser.add_argument('--out', type=Path, default=Path(), help='folder for page and JSON')
    parser.add_argument('--runs', type=int, default=1000, help='timed runs per engine')


def run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.bundle)
    found = verify(bundle, args.provider, BuildPolicy(on_event=print_event), args.runs)
    path = args.out / f'verify-engine-{bundle.card.name}.html'
    write_page(path, make_page(found))
    with told_as(OutputError, f'{path} cannot be written', advice='Give a folder with --out.'):
        write_json(path.with_suffix('.json'), found)
    for report in found['engines']:
        passed = f'passed, {_ms(report.latency)} ms a run, {_ms(report.frame_latency)} ms from 720p'
        print(f'{report.precision}, batch {report.batch}: {report.failure or passed}')
    print(f'{path}: {"passed" if found["passed"] else "FAILED"}. Send this file back, please.')
    return 0 if found['passed'] else 1


def verify(
    bundle: Bundle, provider: GpuRuntimeChoice, policy: BuildPolicy, runs: int
) -> dict[str, Any]:
    """Build, compare and time every network of the bundle that TensorRT takes.

    Returns all that is on the page: passed, time, command, machine, model, engines (EngineReport).
    """
    reports = []
    working: list[tuple[EngineReport, Engine]] = []
    with ExitStack() as stack:
        for network in networks_for_gpu(bundle.card):
            report = EngineReport(network.file, network.precision, network.batch)
            reports.append(report)
            with _noting_failure(report):
                plan, engine = _provide(bundle, network, report, provider, policy)
                stack.callback(engine.close)
                _check(bundle, plan, engine, report)
                working.append((report, engine))
        for batch in sorted({report.batch for report, _ in working}):
            same = [(report, engine) for report, engine in working if report.batch == batch]
            with _noting_failure(same[0][0]):
                time_engines(bundle, same, runs)
    card = bundle.card
    return {
        'passed': bool(reports) and not any(report.failure for report in reports),
        'time': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': ' '.join(sys.argv),
        'machine': describe_host(),
        'model': {
            'name': card.name,
            'networks': card.networks,
            'gate': card.verdict,
            'int8_convolutions': card.int8_convolutions,
        },
        'engines': reports,
    }


def _provide(
    bundle: Bundle,
    network: NetworkFile,
    report: EngineReport,
    provider: GpuRuntimeChoice,
    policy: BuildPolicy,
) -> tuple[EnginePlan, Engine]:
    def listen(event: BuildEvent) -> None:
        if event.kind in ('warning', 'error'):
            report.messages.append(event.message)
        policy.on_event(event)

    def note(order: EngineOrder, plan: EnginePlan) -> None:
        report.passport = without_nan(plan.passport)

    policy.tell('reason', f'{network.file}:')
    order = make_order(bundle, network, replace(policy, on_event=listen), provider)
    return provide_engine(order, note)


def _check(bundle: Bundle, plan: EnginePlan, engine: Engine, report: EngineReport) -> None:
    check = check_engine(engine, bundle)
    report.check = check.to_dict()
    record_check(plan.path, report.check)
    if not check.passed:
        report.failure = f'differs from FP32: {"; ".join(check.reasons)}'
    report.launches = str(getattr(engine, 'launches', ''))
    if isinstance(engine, FrameEngine) and not report.failure:
        report.failure = difference_on_gpu(bundle, engine)


def difference_on_gpu(bundle: Bundle, engine: FrameEngine) -> str:
    """Compare views and decoding on the GPU with the CPU's; empty where they agree."""
    card = bundle.card
    thresholds = np.array([card.thresholds[name] for name in card.class_names], np.float32)
    pictures, _ = read_reference(bundle)
    size = card.height_px, card.width_px
    bands = views_around(NOWHERE * card.height_px, *size, size, 'whole+horizon+strip')
    shown = np.empty_like(pictures)
    for number, view in enumerate((whole_view(*size, size), *bands)):
        for picture, out in zip(pictures, shown, strict=True):
            view.apply(picture, out)
        outputs = run_all(engine, shown)
        for index, (picture, output) in enumerate(zip(pictures, outputs, strict=True)):
            asked = [CameraPicture.of_bgr(picture)], [view]
            (there,) = engine.detect(*asked, thresholds, card.nms_iou)
            here = decode(output, card.output_layout, thresholds, card.nms_iou)
            # Where pixels are blended, a grey level may be rounded otherwise.
            least = float(thresholds.max()) + SURE if number else 0.0
            if difference := difference_of(there, here, least):
                return (
                    f'decoding on the GPU differs from the CPU: picture {index}, view {view.name}, '
                    f'has {difference}'
                )
    return ''


def difference_of(there: Detections, here: Detections, least: float = 0.0) -> str:
    """Compare cones that the GPU decoded with the CPU's; empty where they agree.

    least: score from which both must have a cone.
    """
    i, j, _ = match_pairs(there, here)
    moved = float(np.abs(there.xyxy_px[i] - here.xyxy_px[j]).max(initial=0.0))
    lonely = np.concatenate([np.delete(there.score, i), np.delete(here.score, j)])
    if not (lonely >= least).any() and moved <= 0.5:
        return ''
    return (
        f'{len(there)} cones there and {len(here)} here, {len(i)} of them the same, boxes up to '
        f'{moved:.2f} px apart'
    )


def time_engines(bundle: Bundle, same: Sequence[tuple[EngineReport, Engine]], runs: int) -> None:
    """Time engines of one batch size in turns: the network alone, and a 720p picture to cones."""
    pictures, _ = read_reference(bundle)
    engines = [engine for _, engine in same]
    random = np.random.default_rng(0)
    frame = Frame(random.integers(0, 256, (720, 1280, 3), np.uint8))
    alone = [run_of(engine, pictures) for engine in engines]
    detectors = [ConeDetector(bundle.card, engine) for engine in engines]
    count = detectors[0].frames_per_run
    asked = [frame] * count, Filters(), [Horizon(fixed=NOWHERE)] * count
    whole = [partial(detector.detect, *asked) for detector in detectors]
    latencies, frame_latencies = (measure_latencies(works, runs) for works in (alone, whole))
    for (report, _), latency, frame_latency in zip(same, latencies, frame_latencies, strict=True):
        report.latency, report.frame_latency = latency, frame_latency


@contextmanager
def _noting_failure(report: EngineReport) -> Iterator[None]:
    """Run a step of which anything that goes wrong, foreseen or not, is noted in the report."""
    try:
        yield
    except (EngineError, ModelError) as error:
        report.failure = str(error)
    except Exception:
        report.failure = traceback.format_exc(limit=8)


def make_page(found: Mapping[str, Any]) -> Page:
    """One page for a person; the JSON is inside of it too."""
    machine = {'command': found['command'], **found['machine'], **found['machine']['versions']}
    facts = [[name, str(value)] for name, value in machine.items() if name != 'versions']
    rows = [_row(report) for report in found['engines']]
    engines = Table([*rows[0]] if rows else (), [[*row.values()] for row in rows], words=(1, 3, 4))
    note = 'Milliseconds: median (99th percentile), picture and answer in host memory.'
    return Page(
        f'Engines of {found["model"]["name"]}',
        f'{found["time"]}. Each engine built on this machine, compared with stored FP32 answers, '
        'timed in turns.',
        'passed' if found['passed'] else 'FAILED',
        'good' if found['passed'] else 'bad',
        [
            Section('Engines', [engines], note),
            Section('Machine', [Table((), facts, words=(1,))]),
            *(
                Section(f'{r.network}: {r.precision}, batch {r.batch}', _details(r))
                for r in found['engines']
            ),
            Section('Everything', [Listing('All of it as JSON', to_json(found, indent=2), 'json')]),
        ],
        wide=True,
    )


def _row(report: EngineReport) -> dict[str, str | Cell]:
    """Column -> what the report says."""
    passport, check = report.passport or {}, report.check or {}
    counts = passport.get('convolutions', {})
    score_error, mean_iou = check.get('score_error_mean'), check.get('mean_iou')
    return {
        'network': report.network,
        'precision': report.precision,
        'batch': str(report.batch),
        'result': Cell('failed', tone='bad') if report.failure else Cell('passed', tone='good'),
        'convolutions': ', '.join(f'{count} {name}' for name, count in counts.items()),
        'score error': '' if score_error is None else f'{score_error:.4f}',
        'mean IoU': '' if mean_iou is None else f'{mean_iou:.4f}',
        'network, ms': _ms(report.latency),
        '720p to cones, ms': _ms(report.frame_latency),
        'build, s': str(passport.get('build_s', '')),
        'MB': f'{passport["plan_bytes"] / 1e6:.1f}' if passport else '',
    }


def _details(report: EngineReport) -> list[Block]:
    blocks: list[Block] = []
    if report.failure:
        blocks += [Banner('It failed.'), Listing('', report.failure)]
    if report.launches:
        blocks.append(Text(f'Launched as: {report.launches}'))
    if report.messages:
        blocks += [Text('Messages of the compiler:'), Listing('', '\n'.join(report.messages[-50:]))]
    if report.passport:
        blocks.append(Listing('Passport', to_json(report.passport, indent=2), 'json'))
    return blocks


def _ms(latency: Latency | None) -> str:
    return f'{latency.median_ms:.3f} ({latency.p99_ms:.3f})' if latency else ''
