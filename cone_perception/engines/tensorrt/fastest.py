"""Builds, checks and times several ordered engines, and keeps which is fastest on this GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from cone_perception.engines.check import (
    Check,
    Latency,
    check_plan,
    measure_latencies,
    read_reference,
    run_of,
)
from cone_perception.engines.tensorrt.order import EngineOrder
from cone_perception.engines.tensorrt.plans import EnginePlan, writing
from cone_perception.engines.tensorrt.provide import provide_engine
from cone_perception.errors import ConePerceptionError, EngineError, EngineLostError, ModelError
from cone_perception.files import read_noted, write_json
from cone_perception.types import Precision

RUNS = 300
"""Per engine, to find the fastest: at about a millisecond each, the clock has settled by then."""


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine that may drive. latency: None where it was not compared with others."""

    order: EngineOrder
    plan: EnginePlan
    check: Check
    latency: Latency | None = None

    @property
    def precision(self) -> Precision:
        return self.order.key.precision

    def __str__(self) -> str:
        """One line for people."""
        check = self.check
        speed = f', {self.latency.median_ms:.3f} ms a run' if self.latency else ''
        return (
            f'{self.precision}: passed against FP32 on {check.pictures} pictures with '
            f'{check.boxes} cones, score error {check.score_error_mean:.3f}, '
            f'mean IoU {check.mean_iou:.3f}{speed}'
        )


def fastest_order(orders: Sequence[EngineOrder], say: Callable[[str], None]) -> EngineOrder:
    """The only one, the one that was measured to be fastest before, or is now.

    say: told what was built. Raises as `build_engines`.
    """
    if len(orders) == 1:
        return orders[0]
    return read_choice(orders) or keep_fastest(build_engines(orders, say), say).order


def build_engines(orders: Sequence[EngineOrder], say: Callable[[str], None]) -> list[BuiltEngine]:
    """Build, compare with the FP32 reference and, of several, time the engines in turns.

    say: told what was built. One that is refused is told of and left out. Raises the last refusal
    when none is left.
    """
    pictures, _ = read_reference(orders[0].bundle)

    with ExitStack() as stack:
        engines, built = [], []
        refusal: ConePerceptionError | None = None
        for order in orders:
            try:
                plan, engine = provide_engine(order, lambda *made: say(describe_plan(*made)))
                stack.callback(engine.close)
                check = check_plan(engine, order.bundle, plan.path)
            except EngineLostError:
                raise
            except (EngineError, ModelError) as error:
                if order.policy.cancelled():
                    raise
                refusal = error
                order.policy.tell('error', f'{order.key.precision}: {error}')
                continue
            engines.append(engine)
            built.append(BuiltEngine(order, plan, check))
        if refusal and not built:
            raise refusal
        if len(built) == 1:
            return built
        latencies = measure_latencies([run_of(each, pictures) for each in engines], RUNS)
        return [replace(e, latency=each) for e, each in zip(built, latencies, strict=True)]


def describe_plan(order: EngineOrder, plan: EnginePlan) -> str:
    """One line: precision, GPU, convolutions, size, and where the plan came from."""
    assert plan.passport is not None
    passport, key = plan.passport, plan.passport.key
    counts = ', '.join(f'{count} {name}' for name, count in passport.convolutions.items())
    required = order.bundle.card.int8_convolutions
    wanted = f' (card: {required} int8)' if key.precision == 'int8' else ''
    made = f'from {passport.origin}' if passport.origin else f'built in {passport.build_s:.0f} s'
    return (
        f'{key.precision}, batch {key.batch}, for {key.gpu or "any GPU"} of compute capability '
        f'{key.compute_capability}, {key.provider} {key.provider_version}: convolutions {counts}'
        f'{wanted}; {len(plan.data) / 1e6:.1f} MB, {made}'
    )


def keep_fastest(built: Sequence[BuiltEngine], say: Callable[[str], None]) -> BuiltEngine:
    """The fastest of what was built and timed; kept, so that it need not be timed again."""
    if len(built) == 1:
        say(f'{built[0].precision} is the only one that may drive.')
        return built[0]
    medians_ms = {
        each.precision: round(each.latency.median_ms, 4) for each in built if each.latency
    }
    fastest = min(built, key=lambda each: medians_ms[each.precision])
    keys = _keys([each.order for each in built])
    content = {'precision': fastest.precision, 'keys': keys, 'medians_ms': medians_ms}
    with writing(fastest.order.choice_file):
        write_json(fastest.order.choice_file, content)
    say(f'{fastest.precision} is the fastest on this GPU and will be used.')
    return fastest


def read_choice(orders: Sequence[EngineOrder]) -> EngineOrder | None:
    """The order that was measured to be fastest; None where that was not done for these plans."""
    choice = read_noted(orders[0].choice_file)
    measured = orders if choice.get('keys') == _keys(orders) else ()
    return next((o for o in measured if o.key.precision == choice.get('precision')), None)


def _keys(orders: Sequence[EngineOrder]) -> dict[Precision, str]:
    return {order.key.precision: order.key.sha256() for order in orders}
