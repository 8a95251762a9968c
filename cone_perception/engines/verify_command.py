"""`cone-perception verify-engine`: what the first owner of a GPU runs, and sends the page back.

Builds every engine of a bundle, compares each with FP32, times them in turns, and writes one page
and the same as JSON. Whatever fails is on the page too: that is what it is for.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cone_perception import __version__
from cone_perception.decode import decode
from cone_perception.engines import Engine, FrameEngine
from cone_perception.engines.build_command import add_bundle
from cone_perception.engines.check import (
    check_engine,
    match_boxes,
    read_reference,
    run_all,
)
from cone_perception.engines.events import BuildEvent, print_event
from cone_perception.engines.latency import Latency, measure_latencies
from cone_perception.engines.tensorrt.gpu import read_gpu
from cone_perception.engines.tensorrt.order import BuildPolicy, EngineOrder, for_gpu, make_order
from cone_perception.engines.tensorrt.plans import EnginePlan, record_check
from cone_perception.engines.tensorrt.provide import provide_engine
from cone_perception.errors import EngineError, ModelError, OutputError
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, NetworkFile, read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.types import CameraPicture, Frame, GpuRuntimeChoice

FRAME_HEIGHT_PX, FRAME_WIDTH_PX = 720, 1280
BOX_TOLERANCE_PX = 0.5
DISTRIBUTIONS = (
    'tensorrt', 'tensorrt_cu12', 'tensorrt_cu13', 'tensorrt-rtx-cu13-bindings', 'pycuda',
    'cuda-bindings', 'numpy', 'opencv-python',
)  # fmt: skip

STYLE = """
:root { --ink: #1c2330; --dim: #667085; --line: #e3e7ee; --page: #f5f7fa; --card: #fff;
  --red: #dc2626; --green: #15803d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #2c3443;
  --page: #11151c; --card: #1a202b; --red: #f87171; --green: #4ade80; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 16px; margin: 0 0 10px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 20px; margin-top: 16px; overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 8px; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--dim); font-weight: 500; font-size: 13px; }
pre { white-space: pre-wrap; font: 12.5px/1.6 ui-monospace, Menlo, Consolas, monospace; }
.passed { color: var(--green); } .failed { color: var(--red); } p { color: var(--dim); }
"""


@dataclass(slots=True)
class EngineReport:
    """What became of one network of the bundle on this machine.

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


@dataclass(frozen=True, slots=True)
class Verification:
    """Everything on the page."""

    time: str
    command: str
    machine: Mapping[str, str]
    model: Mapping[str, Any]
    engines: Sequence[EngineReport]

    @property
    def passed(self) -> bool:
        return bool(self.engines) and not any(report.failure for report in self.engines)

    def to_json(self) -> str:
        return json.dumps({'passed': self.passed, **asdict(self)}, indent=2) + '\n'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument('--provider', choices=get_args(GpuRuntimeChoice), default='auto')
    parser.add_argument('--out', type=Path, default=Path(), help='folder for page and JSON')
    parser.add_argument('--runs', type=int, default=1000, help='timed runs per engine')


def run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.bundle)
    found = verify(bundle, args.provider, BuildPolicy(on_event=print_event), args.runs)
    page = args.out / f'verify-engine-{bundle.card.name}.html'
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        page.write_text(render_page(found), encoding='utf-8')
        page.with_suffix('.json').write_text(found.to_json(), encoding='utf-8')
    except OSError as error:
        raise OutputError(
            f'{page} cannot be written: {error.strerror}. Give a folder with --out.'
        ) from error
    for report in found.engines:
        print(f'{report.precision}, batch {report.batch}: {report.failure or _summary(report)}')
    print(f'{page}: {"passed" if found.passed else "FAILED"}. Send this file back, please.')
    return 0 if found.passed else 1


def verify(
    bundle: Bundle, provider: GpuRuntimeChoice, policy: BuildPolicy, runs: int
) -> Verification:
    """Build, compare and time every network of the bundle that TensorRT takes."""
    networks = [n for n in bundle.card.networks if for_gpu(n)]
    reports = [EngineReport(n.file, n.precision, n.batch) for n in networks]
    with ExitStack() as stack:
        working: list[tuple[EngineReport, Engine]] = []
        for network, report in zip(networks, reports, strict=True):
            engine = _try(report, _build, bundle, network, report, provider, policy)
            if engine is not None:
                stack.callback(engine.close)
                working.append((report, engine))
        for batch in sorted({report.batch for report, _ in working}):
            same = [(report, engine) for report, engine in working if report.batch == batch]
            _try(same[0][0], _time, bundle, same, runs)
    return Verification(
        time=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        command=' '.join(sys.argv),
        machine=describe_machine(),
        model={
            'name': bundle.card.name,
            'networks': [asdict(network) for network in bundle.card.networks],
            'gate': bundle.card.verdict,
            'int8_convolutions': bundle.card.int8_convolutions,
        },
        engines=reports,
    )


def describe_machine() -> dict[str, str]:
    """GPU, driver, versions: what is needed to judge the figures."""
    try:
        gpu = read_gpu()
        gpu_entries = {
            'GPU': f'{gpu.name}, compute capability {gpu.compute_capability}',
            'driver': f'{gpu.driver or "not known"}, CUDA {gpu.cuda}',
        }
    except EngineError as error:
        gpu_entries = {'GPU': f'none: {error}'}
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        **gpu_entries,
        'system': f'{platform.platform()}, {os.cpu_count()} cores',
        'Python': platform.python_version(),
        'cone_perception': __version__,
        **versions,
    }


def render_page(found: Verification) -> str:
    """One HTML file that needs no network; the JSON is inside of it too."""
    verdict = 'passed' if found.passed else 'FAILED'
    head = (
        'network', 'precision', 'batch', 'result', 'convolutions', 'score error', 'mean IoU',
        'network, ms', '720p to cones, ms', 'build, s', 'MB',
    )  # fmt: skip
    rows = ''.join(f'<tr>{"".join(_cells(report))}</tr>' for report in found.engines)
    details = ''.join(_details(report) for report in found.engines)
    machine = ''.join(
        f'<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>'
        for key, value in {'command': found.command, **found.machine}.items()
    )
    raw = html.escape(found.to_json())
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><title>verify-engine</title>'
        f'<style>{STYLE}</style></head><body><main>'
        f'<h1>Engines of {html.escape(str(found.model["name"]))}: '
        f'<span class="{verdict.lower()}">{verdict}</span></h1><p>{html.escape(found.time)}. '
        'Each engine built on this machine, compared with stored FP32 answers, timed in turns.</p>'
        f'<section><h2>Engines</h2><table><tr>'
        f'{"".join(f"<th>{name}</th>" for name in head)}</tr>{rows}</table>'
        '<p>Milliseconds: median (99th percentile), picture and answer in host memory.</p>'
        f'</section><section><h2>Machine</h2><table>{machine}</table></section>{details}'
        f'<section><details><summary>All of it as JSON</summary><pre>{raw}</pre></details>'
        '</section></main></body></html>\n'
    )


def _build(
    bundle: Bundle,
    network: NetworkFile,
    report: EngineReport,
    provider: GpuRuntimeChoice,
    policy: BuildPolicy,
) -> Engine:
    def listen(event: BuildEvent) -> None:
        if event.kind in ('warning', 'error'):
            report.messages.append(event.message)
        policy.on_event(event)

    def note(order: EngineOrder, plan: EnginePlan) -> None:
        assert plan.passport is not None
        report.passport = asdict(plan.passport)

    policy.tell('reason', f'{network.file}:')
    order = make_order(bundle, network, replace(policy, on_event=listen), provider)
    plan, engine = provide_engine(order, note)
    try:
        check = check_engine(engine, bundle)
    except Exception:
        engine.close()
        raise
    report.check = check.to_dict()
    record_check(plan.path, report.check)
    if not check.passed:
        report.failure = f'differs from FP32: {"; ".join(check.reasons)}'
    report.launches = str(getattr(engine, 'launches', ''))
    if isinstance(engine, FrameEngine) and not report.failure:
        report.failure = _difference_on_gpu(bundle, engine)
    return engine


def _difference_on_gpu(bundle: Bundle, engine: FrameEngine) -> str:
    """What letterbox and decoding on the GPU do otherwise than the CPU's; empty if nothing."""
    card = bundle.card
    thresholds = np.array([card.thresholds[name] for name in card.class_names], np.float32)
    pictures, _ = read_reference(bundle)
    for index, (picture, output) in enumerate(
        zip(pictures, run_all(engine, pictures), strict=True)
    ):
        (here,) = engine.detect([CameraPicture.of_bgr(picture)], thresholds, card.nms_iou)
        there = decode(output, card.output_layout, thresholds, card.nms_iou)
        pairs = match_boxes(here, there)
        moved = max(
            (float(np.abs(here.xyxy_px[i] - there.xyxy_px[j]).max()) for i, j, _ in pairs),
            default=0.0,
        )
        if len(pairs) != max(len(here), len(there)) or moved > BOX_TOLERANCE_PX:
            return (
                f'decoding on the GPU differs from the CPU: picture {index} has {len(here)} cones '
                f'there and {len(there)} here, {len(pairs)} of them the same, boxes up to '
                f'{moved:.2f} px apart'
            )
    return ''


def _time(bundle: Bundle, same: Sequence[tuple[EngineReport, Engine]], runs: int) -> None:
    pictures, _ = read_reference(bundle)
    engines = [engine for _, engine in same]
    for (report, _), latency in zip(same, measure_latencies(engines, pictures, runs), strict=True):
        report.latency = latency
    random = np.random.default_rng(0)
    frame = Frame(random.integers(0, 256, (FRAME_HEIGHT_PX, FRAME_WIDTH_PX, 3), np.uint8))
    for report, engine in same:
        detector = ConeDetector(bundle.card, engine)
        times_ms = []
        for _ in range(runs):
            _, stations = detector.detect([frame] * detector.batch, Filters())
            times_ms.append(sum(asdict(stations).values()))
        report.frame_latency = Latency(
            float(np.median(times_ms)), float(np.percentile(times_ms, 99)), runs
        )


def _try(report: EngineReport, step: Callable[..., Any], *arguments: Any) -> Any:
    """Run a step; what goes wrong, foreseen or not, is the page's business."""
    try:
        return step(*arguments)
    except (EngineError, ModelError) as error:
        report.failure = str(error)
    except Exception:
        report.failure = traceback.format_exc(limit=8)
    return None


def _cells(report: EngineReport) -> list[str]:
    passport, check = report.passport or {}, report.check or {}
    counts = ', '.join(f'{n} {p}' for p, n in passport.get('convolutions', {}).items())
    verdict = 'failed' if report.failure else 'passed'
    size = f'{passport["plan_bytes"] / 1e6:.1f}' if passport else ''
    values = (
        report.network, report.precision, str(report.batch),
        f'<span class="{verdict}">{verdict}</span>', counts,
        _figure(check.get('score_error_mean')), _figure(check.get('mean_iou')),
        _ms(report.latency), _ms(report.frame_latency),
        str(passport.get('build_s', '')), size,
    )  # fmt: skip
    return [f'<td>{value}</td>' for value in values]


def _details(report: EngineReport) -> str:
    parts = []
    if report.failure:
        parts.append(f'<pre class="failed">{html.escape(report.failure)}</pre>')
    if report.launches:
        parts.append(f'<p>Launched as: {html.escape(report.launches)}</p>')
    if report.messages:
        text = '\n'.join(report.messages[-50:])
        parts.append(f'<p>What the compiler said:</p><pre>{html.escape(text)}</pre>')
    if report.passport:
        text = json.dumps(report.passport, indent=2)
        parts.append(
            f'<details><summary>Passport</summary><pre>{html.escape(text)}</pre></details>'
        )
    name = f'{report.network}: {report.precision}, batch {report.batch}'
    return f'<section><h2>{html.escape(name)}</h2>{"".join(parts)}</section>'


def _figure(value: float | None) -> str:
    return '' if value is None else f'{value:.4f}'


def _ms(latency: Latency | None) -> str:
    return f'{latency.median_ms:.3f} ({latency.p99_ms:.3f})' if latency else ''


def _summary(report: EngineReport) -> str:
    return f'passed, {_ms(report.latency)} ms a run, {_ms(report.frame_latency)} ms from 720p'
