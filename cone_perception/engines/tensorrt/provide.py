"""An ordered engine that may drive: its plan is in the cache, compiled now, or from elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cone_perception.engines import check_against_card
from cone_perception.engines.check import check_engine, check_plan
from cone_perception.engines.tensorrt.compile_process import compile_apart, inspect_apart
from cone_perception.engines.tensorrt.engine import TensorRtEngine
from cone_perception.engines.tensorrt.order import (
    BuildPolicy,
    EngineOrder,
    make_order,
    network_for_gpu,
)
from cone_perception.engines.tensorrt.plans import EnginePlan, read_plan
from cone_perception.errors import EngineError, PlanError, RefusedPlanError, UnloadablePlanError
from cone_perception.model_card import Bundle, ModelCard
from cone_perception.types import Precision


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
            order.place.record_failure(reason)
            raise RefusedPlanError(
                f'the {order.key.precision} engine of {order.place.model} cannot be used: {reason} '
                'Report it with `cone-perception verify-engine`.'
            ) from error


def open_plan(order: EngineOrder, plan: EnginePlan) -> TensorRtEngine:
    """Load a plan on this machine's GPU. Raises EngineError, UnloadablePlanError."""
    return TensorRtEngine(plan, order.network, order.bundle.card.preprocessing)


def provide_plan(order: EngineOrder) -> EnginePlan:
    """The order's plan, from the cache or compiled now.

    Raises EngineError or PlanError that names what is wrong; RefusedPlanError when it computes less
    in INT8 than its card says, differed from FP32, or failed before and may not be tried again.
    """
    return _provide(order)[0]


def adopt_plan(
    bundle: Bundle, path: Path, precision: Precision | None, batch: int, policy: BuildPolicy
) -> tuple[EngineOrder, EnginePlan]:
    """Check a plan and put it into the cache as the bundle's for this machine.

    precision: None takes what Ultralytics' header says. Returns what it was taken for, and the plan
    as it is kept. Raises PlanError that names what differs, EngineError, ModelError. Then the cache
    is as before.
    """
    plan = read_plan(path)
    if differences := header_differences(plan.metadata, bundle.card, batch):
        raise PlanError(
            f'{path} is not an engine of {bundle.card.name}, by its header: '
            f'{"; ".join(differences)}. Export it for this model, or give the bundle and the '
            '--batch that it belongs to.'
        )
    stated = header_precision(plan.metadata)
    if precision and stated and precision != stated:
        raise PlanError(f'{path} is {stated}, by its header, not {precision}.')
    if not (chosen := precision or stated):
        raise PlanError(
            f'{path} does not say what it computes in: give --precision int8, fp16 or fp32.'
        )
    network = network_for_gpu(bundle, chosen, batch)
    bundle.checked_path(network)
    order = make_order(bundle, network, policy, plan.provider)
    policy.tell('phase', 'counting its layers')
    counted = inspect_apart(order, plan.data)
    try:
        check_convolutions(counted.convolutions, bundle.card, network.precision)
    except RefusedPlanError as error:
        hint = ' Unknown are those of a plan that was compiled without detailed profiling.'
        said = f'{error}{hint if "unknown" in counted.convolutions else ""}'
        raise RefusedPlanError(f'{path} is not taken: {said}') from error
    policy.tell('phase', 'comparing it with FP32')
    with contextlib.closing(open_plan(order, plan)) as engine:
        check_against_card(engine.info, bundle, str(path), batch)
        check = check_engine(engine, bundle)
    if not check.passed:
        raise RefusedPlanError(
            f'{path} is not taken: it does not answer as the FP32 network of {bundle.folder} does: '
            f'{"; ".join(check.reasons)}. Was it exported from the same weights?'
        )
    origin = path.name
    if header := plan.metadata:
        origin += f', Ultralytics {header.get("version")} of {header.get("date")}'
    with order.place.lock():
        order.place.store(replace(counted, data=plan.data), check=check.to_dict(), origin=origin)
        order.choice_file.unlink(missing_ok=True)  # what was measured is another plan
        return order, order.place.load()


def check_convolutions(
    convolutions: Mapping[str, int], card: ModelCard, precision: Precision
) -> None:
    """Raise RefusedPlanError when a plan called INT8 computes less in INT8 than its card says."""
    required, found = card.int8_convolutions, convolutions.get('int8', 0)
    if precision == 'int8' and found < required:
        rest = ', '.join(f'{n} {p}' for p, n in convolutions.items() if p != 'int8')
        raise RefusedPlanError(
            f'the engine of {card.name} computes {found} convolutions in INT8, but its card '
            f'says {required} (the others: {rest or "none"}). It is not the network that was '
            'measured: use --precision fp16, and report it with `cone-perception verify-engine`.'
        )


def header_differences(header: Mapping[str, Any], card: ModelCard, batch: int) -> list[str]:
    """Name what the header of an engine of Ultralytics says otherwise than the model card."""
    arguments = header.get('args') or {}
    names, size = header.get('names'), header.get('imgsz')
    if isinstance(names, dict):
        names = list(names.values())  # in the order of their indices
    sizes = [size, size] if isinstance(size, int) else size
    found = {
        'its task': (header.get('task'), 'detect'),
        'its batch': (header.get('batch'), batch),
        'its input (height, width)': (sizes, [card.height_px, card.width_px]),
        'its channels': (header.get('channels'), 3),
        'its classes': (names, list(card.class_names)),
        'its dynamic shapes': (arguments.get('dynamic'), False),
        'its own NMS': (arguments.get('nms'), False),
        'its end-to-end output': (header.get('end2end'), card.output_layout == 'end_to_end'),
    }
    return [
        f'{what}: {_text(value)}, not {_text(wanted)}'
        for what, (value, wanted) in found.items()
        if value is not None and value != wanted
    ]


def header_precision(header: Mapping[str, Any]) -> Precision | None:
    """Precision of an engine of Ultralytics; None where its header does not say."""
    arguments = header.get('args') or {}
    if 'quantize' in arguments:
        bits: Mapping[object, Precision] = {None: 'fp32', 32: 'fp32', 16: 'fp16', 8: 'int8'}
        return bits.get(arguments['quantize'])
    if arguments.get('int8'):  # with `half`, of earlier versions
        return 'int8'
    if 'half' not in arguments:
        return None
    return 'fp16' if arguments['half'] else 'fp32'


def _text(value: object) -> str:
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


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
    if not policy.retry and (failed := order.place.failure()):
        raise RefusedPlanError(
            f'the engine of {order.place} could not be built here at {failed} It is not tried '
            f'again by itself; to try, run {order.command}.'
        )
    if policy.build == 'never':
        advice = f'run {order.command} on this machine.'
        raise PlanError(f'{reason} Building is switched off (build: never): {advice}')
    policy.tell('reason', reason)
    wait = partial(policy.tell, 'wait', 'another process builds this engine: waiting for it')
    with order.place.lock(wait) as waited:
        if not waited:
            try:
                compiled = compile_apart(order)
            except EngineError as error:
                if not policy.cancelled():
                    order.place.record_failure(str(error))
                raise
            # Kept also when it is refused next: it need not be built again to know.
            order.place.store(compiled)
            plan = _load_accepted(order)
            size = f'{len(plan.data) / 1e6:.1f} MB, {compiled.build_s:.0f} s'
            policy.tell('built', f'{plan.path}: {size}')
            return plan, True
    return _provide(order)  # the other process was building this very plan


def _load_accepted(order: EngineOrder) -> EnginePlan:
    """The plan in the cache, unless it computes less in INT8 than the card says, or was refused."""
    plan = order.place.load()
    assert plan.passport is not None
    check_convolutions(plan.passport.convolutions, order.bundle.card, order.key.precision)
    check = plan.passport.check
    if check is not None and not check.get('passed'):
        reasons = '; '.join(check.get('reasons', []))
        raise RefusedPlanError(f'{plan.path} did not answer as FP32 does: {reasons}.')
    return plan
