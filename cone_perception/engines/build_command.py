"""`cone-perception build-engine`: compile a bundle for this machine's GPU, check it, keep it."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cone_perception.engines import Engine
from cone_perception.engines.check import Check, check_plan, read_reference
from cone_perception.engines.latency import Latency, measure_latencies
from cone_perception.engines.tensorrt.adopt import adopt_plan
from cone_perception.engines.tensorrt.fastest import buildable_precisions, choose, write_choice
from cone_perception.engines.tensorrt.plans import (
    Plan,
    PlanCache,
    cache_folder,
    passport_path,
)
from cone_perception.engines.tensorrt.provide import (
    BuildEvent,
    choose_provider,
    network_for_gpu,
    provide_engine,
    provide_plan,
    required_int8,
)
from cone_perception.errors import (
    ConePerceptionError,
    EngineError,
    EngineLostError,
    ModelError,
)
from cone_perception.model_card import Bundle, read_bundle, shipped_bundle
from cone_perception.types import BuildChoice, GpuRuntimeChoice, Precision, PrecisionChoice

RUNS = 300
"""Per engine, to find the fastest: at about a millisecond each, the clock has settled by then."""

OpenPlan = Callable[[Bundle, Plan], Engine]


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine that may drive. latency: None where it was not compared with others."""

    plan: Plan
    check: Check
    latency: Latency | None = None

    @property
    def precision(self) -> Precision:
        assert self.plan.passport is not None
        return self.plan.passport.key.precision


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'bundle',
        type=Path,
        nargs='?',
        default=shipped_bundle(),
        help="model bundle's folder (default: the shipped model)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        '--precision',
        choices=get_args(PrecisionChoice),
        default='best',
        help='best: INT8 and FP16, whichever this GPU runs faster (default)',
    )
    parser.add_argument('--batch', type=int, default=1, help='pictures per run; stereo: 2')
    parser.add_argument('--provider', choices=get_args(GpuRuntimeChoice), default='auto')
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--for',
        dest='target',
        default='',
        metavar='SM89',
        help='compile for a GPU that is not here (RTX 4060: SM89); TensorRT-RTX only',
    )
    instead.add_argument(
        '--plan',
        type=Path,
        metavar='FILE',
        help='compile nothing: check this .engine of Ultralytics, or .plan, and take it',
    )
    parser.add_argument('--out', type=Path, help='also copy plan and passport into this folder')


def run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.bundle)
    cache = PlanCache(cache_folder())
    if args.plan:
        return _adopt(bundle, cache, args)
    precisions = buildable_precisions(bundle, args.batch, args.precision, print_warning)
    if args.target:
        provider: GpuRuntimeChoice = 'tensorrt_rtx' if args.provider == 'auto' else args.provider
        plans = [
            provide_plan(
                bundle,
                precision,
                args.batch,
                provider=provider,
                target=args.target,
                cache=cache,
                on_event=print_event,
            )
            for precision in precisions
        ]
        for plan in plans:
            print(_plan_line(plan, bundle))
        print(f'Not compared with FP32: that needs a GPU of {args.target}.')
    else:
        built = build_engines(
            bundle, precisions, args.batch, args.provider, cache, print_event, open_plan
        )
        for engine in built:
            print(_line(engine))
        if args.precision == 'best':
            plans = [remember_best(bundle, args.batch, cache, built, print).plan]
        else:
            plans = [engine.plan for engine in built]
    _report(plans, args.out)
    return 0


def _report(plans: Sequence[Plan], out: Path | None) -> None:
    """Say where the plans lie, and copy them where that was asked for."""
    for plan in plans:
        print(plan.path)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            for file in (plan.path, passport_path(plan.path)):
                shutil.copy(file, out)


def _adopt(bundle: Bundle, cache: PlanCache, args: argparse.Namespace) -> int:
    precision = None if args.precision == 'best' else args.precision
    plan = adopt_plan(bundle, args.plan, precision, args.batch, cache, print_event, open_plan)
    print(_plan_line(plan, bundle))
    _report([plan], args.out)
    return 0


def build_engines(
    bundle: Bundle,
    precisions: Sequence[Precision],
    batch: int,
    provider: GpuRuntimeChoice,
    cache: PlanCache,
    on_event: Callable[[BuildEvent], None],
    open_engine: OpenPlan,
    build: BuildChoice = 'auto',
    retry: bool = True,
    cancelled: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> list[BuiltEngine]:
    """Build, compare with the FP32 reference and, of several, time the engines in turns.

    build, retry, cancelled: as of `provide_plan`. say: told what was built.
    One that is refused is said and left out. Raises the last refusal when none is left.
    """
    choose_provider(provider)
    pictures, _ = read_reference(bundle)

    def load(plan: Plan) -> Engine:
        say(_plan_line(plan, bundle))
        return open_engine(bundle, plan)

    with ExitStack() as stack:
        engines, built = [], []
        refusal: ConePerceptionError = EngineError('no precision was asked for.')
        for precision in precisions:
            try:
                plan, engine = provide_engine(
                    bundle,
                    precision,
                    batch,
                    load,
                    on_event,
                    provider=provider,
                    build=build,
                    retry=retry,
                    cache=cache,
                    cancelled=cancelled,
                )
                stack.callback(engine.close)
                check = check_plan(engine, bundle, plan.path)
            except EngineLostError:
                raise
            except (EngineError, ModelError) as error:
                if cancelled():
                    raise
                refusal = error
                on_event(BuildEvent('error', f'{precision}: {error}'))
                continue
            engines.append(engine)
            built.append(BuiltEngine(plan, check))
        if not built:
            raise refusal
        if len(built) == 1:
            return built
        latencies = measure_latencies(engines, pictures, RUNS)
        return [
            BuiltEngine(entry.plan, entry.check, latency)
            for entry, latency in zip(built, latencies, strict=True)
        ]


def open_plan(bundle: Bundle, plan: Plan) -> Engine:
    """Load a plan on this machine's GPU."""
    try:
        from cone_perception.engines.tensorrt.engine import TensorRtEngine
    except ImportError as error:
        raise EngineError(
            f'the engine is built, but what runs it is not installed ({error}). '
            "Install it with: pip install 'cone_perception[tensorrt]'"
        ) from error
    assert plan.passport is not None
    key = plan.passport.key
    network = network_for_gpu(bundle, key.precision, key.batch)
    return TensorRtEngine(plan, network, bundle.card.preprocessing)


def print_warning(text: str) -> None:
    print_event(BuildEvent('warning', text))


def print_event(event: BuildEvent) -> None:
    """Progress for a terminal: one line that changes; only what matters where it is no terminal."""
    terminal = sys.stderr.isatty()
    if event.kind == 'phase':
        if terminal:
            steps = f' {event.done}/{event.of}' if event.of else ''
            print(f'\r\033[K{event.message}{steps}', end='', file=sys.stderr, flush=True)
        return
    prefix = '\r\033[K' if terminal else ''
    label = {'warning': 'warning: ', 'error': 'error: '}.get(event.kind, '')
    print(f'{prefix}{label}{event.message}', file=sys.stderr, flush=True)


def remember_best(
    bundle: Bundle,
    batch: int,
    cache: PlanCache,
    built: Sequence[BuiltEngine],
    say: Callable[[str], None],
) -> BuiltEngine:
    """The fastest of what was built and timed; kept, so that it need not be timed again."""
    if len(built) == 1:
        say(f'{built[0].precision} is the only one that may drive.')
        return built[0]
    keys = {e.precision: e.plan.passport.key for e in built if e.plan.passport}
    latencies = {e.precision: e.latency for e in built if e.latency}
    choice = choose(keys, latencies)
    write_choice(cache, bundle.card, batch, choice)
    say(f'{choice.precision} is the fastest on this GPU and will be used.')
    return next(entry for entry in built if entry.precision == choice.precision)


def _plan_line(plan: Plan, bundle: Bundle) -> str:
    assert plan.passport is not None
    passport, key = plan.passport, plan.passport.key
    counts = ', '.join(f'{count} {name}' for name, count in passport.convolutions.items())
    wanted = f' (card: {required_int8(bundle)} int8)' if key.precision == 'int8' else ''
    made = f'from {passport.origin}' if passport.origin else f'built in {passport.build_s:.0f} s'
    return (
        f'{key.precision}, batch {key.batch}, for {key.gpu or "any GPU"} of compute capability '
        f'{key.compute_capability}, {key.provider} {key.provider_version}: convolutions {counts}'
        f'{wanted}; {len(plan.data) / 1e6:.1f} MB, {made}'
    )


def _line(engine: BuiltEngine) -> str:
    check = engine.check
    speed = f', {engine.latency.median_ms:.3f} ms a run' if engine.latency else ''
    return (
        f'{engine.precision}: passed against FP32 on {check.pictures} pictures with {check.boxes} '
        f'cones, score error {check.score_error_mean:.3f}, mean IoU {check.mean_iou:.3f}{speed}'
    )
