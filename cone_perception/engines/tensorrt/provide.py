"""An ordered engine, from the cache or compiled now, loaded, and checked before it may drive."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from cone_perception.engines import check_against_card
from cone_perception.engines.check import check_plan
from cone_perception.engines.events import BuildEvent
from cone_perception.engines.tensorrt.compiler import compile_apart
from cone_perception.engines.tensorrt.order import EngineOrder
from cone_perception.engines.tensorrt.plans import EnginePlan
from cone_perception.errors import (
    EngineError,
    PlanError,
    RefusedPlanError,
    UnloadablePlanError,
)
from cone_perception.model_card import ModelCard
from cone_perception.types import Precision

if TYPE_CHECKING:
    from cone_perception.engines.tensorrt.engine import TensorRtEngine


def open_ordered(order: EngineOrder) -> TensorRtEngine:
    """The ordered engine, which may drive: it is compared with the FP32 reference once.

    Raises as `provide_engine`, and RefusedPlanError or ModelError when it is not what was measured.
    """
    plan, engine = provide_engine(order)
    try:
        check_against_card(engine.info, order.bundle, str(plan.path), order.network.batch)
        if plan.passport is None or plan.passport.check is None:
            check_plan(engine, order.bundle, plan.path)
    except BaseException:
        engine.close()
        raise
    return engine


def provide_engine(
    order: EngineOrder,
    on_plan: Callable[[EngineOrder, EnginePlan], None] = lambda order, plan: None,
) -> tuple[EnginePlan, TensorRtEngine]:
    """The order's plan, as of `provide_plan`, and the engine that loaded it.

    A plan from the cache that TensorRT refuses although its passport fits is compiled once more.
    One that it refuses fresh from its compiler counts as a failed build: RefusedPlanError.
    on_plan: told of a plan before it is loaded.
    """
    plan, built = _provide(order)
    while True:
        on_plan(order, plan)
        try:
            return plan, open_plan(order, plan)
        except UnloadablePlanError as error:
            if not built:
                plan, built = _provide(order, rebuild_for=str(error))
                continue
            reason = f'it was compiled, but {error}'
            order.policy.cache.record_failure(order.model, order.key, reason)
            raise RefusedPlanError(
                f'the {order.key.precision} engine of {order.model} cannot be used: {reason} '
                'Report it with `cone-perception verify-engine`.'
            ) from error


def open_plan(order: EngineOrder, plan: EnginePlan) -> TensorRtEngine:
    """Load a plan on this machine's GPU. Raises EngineError, UnloadablePlanError."""
    try:
        from cone_perception.engines.tensorrt.engine import TensorRtEngine
    except ImportError as error:
        raise EngineError(
            f'the engine is built, but what runs it is not installed ({error}). '
            "Install it with: pip install 'cone_perception[tensorrt]'"
        ) from error
    return TensorRtEngine(plan, order.network, order.bundle.card.preprocessing)


def provide_plan(order: EngineOrder) -> EnginePlan:
    """The order's plan, from the cache or compiled now.

    Raises EngineError or PlanError that names what is wrong; RefusedPlanError when it computes less
    in INT8 than its card says, differed from FP32, or failed before and may not be tried again.
    """
    return _provide(order)[0]


def check_convolutions(
    convolutions: Mapping[str, int], card: ModelCard, precision: Precision
) -> None:
    """Raise RefusedPlanError when a plan called INT8 computes less in INT8 than its card says."""
    if precision != 'int8':
        return
    required, found = card.int8_convolutions, convolutions.get('int8', 0)
    if found < required:
        rest = ', '.join(f'{n} {p}' for p, n in convolutions.items() if p != 'int8')
        raise RefusedPlanError(
            f'the engine of {card.name} computes {found} convolutions in INT8, but its card '
            f'says {required} (the others: {rest or "none"}). It is not the network that was '
            'measured: use --precision fp16, and report it with `cone-perception verify-engine`.'
        )


def _provide(order: EngineOrder, rebuild_for: str = '') -> tuple[EnginePlan, bool]:
    """The plan, and True where it was compiled now.

    rebuild_for: why the plan in the cache is not taken, where it is not.
    """
    policy = order.policy
    order.bundle.checked_path(order.network)
    reason = rebuild_for
    if not reason:
        try:
            return _load_accepted(order), False
        except PlanError as error:
            if isinstance(error, RefusedPlanError) and not policy.retry:
                raise RefusedPlanError(
                    f'{error} It is not built again by itself; to try, run {order.command}.'
                ) from error
            reason = str(error)
    _refuse_what_failed(order)
    if policy.build == 'never':
        raise PlanError(
            f'{reason} Building is switched off (build: never): run {order.command} on this '
            'machine.'
        )
    policy.tell('reason', reason)
    with _announced_lock(order) as waited:
        if waited:  # the other process was building this very plan
            try:
                return _load_accepted(order), False
            except RefusedPlanError:
                raise
            except PlanError as error:
                _refuse_what_failed(order)
                policy.tell('reason', str(error))
        return _build(order), True


def _build(order: EngineOrder) -> EnginePlan:
    """Compile, and keep also what is refused next: it need not be built again to know."""
    policy, cache = order.policy, order.policy.cache
    try:
        compiled = compile_apart(order)
    except EngineError as error:
        if not policy.cancelled():
            cache.record_failure(order.model, order.key, str(error))
        raise
    cache.store(
        order.model,
        order.key,
        compiled.data,
        convolutions=compiled.convolutions,
        layers=compiled.layers,
        build_s=round(compiled.build_s, 2),
    )
    plan = _load_accepted(order)
    policy.tell('built', f'{plan.path}: {len(plan.data) / 1e6:.1f} MB, {compiled.build_s:.0f} s')
    return plan


def _load_accepted(order: EngineOrder) -> EnginePlan:
    """The plan in the cache, unless it computes less in INT8 than the card says, or was refused."""
    plan = order.policy.cache.load(order.model, order.key)
    assert plan.passport is not None
    check_convolutions(plan.passport.convolutions, order.bundle.card, order.key.precision)
    check = plan.passport.check
    if check is not None and not check.get('passed'):
        reasons = '; '.join(check.get('reasons', []))
        raise RefusedPlanError(f'{plan.path} did not answer as FP32 does: {reasons}.')
    return plan


def _refuse_what_failed(order: EngineOrder) -> None:
    """Raise RefusedPlanError when this plan failed to build here, and may not be tried again."""
    if order.policy.retry:
        return
    key = order.key
    failed = order.policy.cache.failure(order.model, key)
    if failed is not None:
        raise RefusedPlanError(
            f'the engine of {order.model} ({key.precision}, batch {key.batch}, {key.provider}) '
            f'could not be built here at {failed.time}: {failed.reason} It is not tried again by '
            f'itself; to try, run {order.command}.'
        )


@contextlib.contextmanager
def _announced_lock(order: EngineOrder) -> Iterator[bool]:
    """The cache's lock; says so when another process holds it for longer than a moment."""
    waiting = BuildEvent('wait', 'another process builds this engine: waiting for it')
    told = threading.Timer(1.0, order.policy.on_event, [waiting])
    told.daemon = True
    told.start()
    try:
        with order.policy.cache.lock(order.model, order.key) as waited:
            told.cancel()
            yield waited
    finally:
        told.cancel()
