"""A plan that was compiled elsewhere: held against the bundle, then kept as the bundle's own.

Ultralytics writes what a plan is in front of it: that is compared with the card before the plan is
touched. Then the plan is counted, loaded and compared with FP32, as every plan is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cone_perception.engines import check_against_card
from cone_perception.engines.check import check_engine
from cone_perception.engines.tensorrt.compiler import inspect_apart
from cone_perception.engines.tensorrt.fastest import forget_choice
from cone_perception.engines.tensorrt.order import (
    BuildPolicy,
    EngineOrder,
    make_order,
    network_for_gpu,
)
from cone_perception.engines.tensorrt.plans import EnginePlan, read_plan
from cone_perception.engines.tensorrt.provide import check_convolutions, open_plan
from cone_perception.errors import PlanError, RefusedPlanError
from cone_perception.model_card import Bundle, ModelCard
from cone_perception.types import Precision

QUANTISED: Mapping[object, Precision] = {None: 'fp32', 32: 'fp32', 16: 'fp16', 8: 'int8'}
"""Ultralytics' argument `quantize` -> precision; earlier versions had `half` and `int8`."""


def adopt_plan(
    bundle: Bundle, path: Path, precision: Precision | None, batch: int, policy: BuildPolicy
) -> tuple[EngineOrder, EnginePlan]:
    """Check a plan and put it into the cache as the bundle's for this machine.

    precision: None takes what Ultralytics' header says. Returns what it was taken for, and the plan
    as it is kept. Raises PlanError that names what differs, EngineError, ModelError. Then the cache
    is as before.
    """
    plan = read_plan(path)
    _check_header(plan, bundle.card, batch)
    network = network_for_gpu(bundle, _choose_precision(plan, precision), batch)
    order = make_order(bundle, network, policy, plan.provider)
    policy.tell('phase', 'counting its layers')
    counted = inspect_apart(order, plan.data)
    try:
        check_convolutions(counted.convolutions, bundle.card, network.precision)
    except RefusedPlanError as error:
        hint = (
            ' Unknown are those of a plan that was compiled without detailed profiling.'
            if 'unknown' in counted.convolutions
            else ''
        )
        raise RefusedPlanError(f'{path} is not taken: {error}{hint}') from error
    policy.tell('phase', 'comparing it with FP32')
    engine = open_plan(order, plan)
    try:
        check_against_card(engine.info, bundle, str(path), batch)
        check = check_engine(engine, bundle)
    finally:
        engine.close()
    if not check.passed:
        raise RefusedPlanError(
            f'{path} is not taken: it does not answer as the FP32 network of {bundle.folder} does: '
            f'{"; ".join(check.reasons)}. Was it exported from the same weights?'
        )
    with policy.cache.lock(order.model, order.key):
        policy.cache.store(
            order.model,
            order.key,
            plan.data,
            convolutions=counted.convolutions,
            layers=counted.layers,
            check=check.to_dict(),
            origin=_origin(plan),
        )
        forget_choice(order)
        return order, policy.cache.load(order.model, order.key)


def header_differences(header: Mapping[str, Any], card: ModelCard, batch: int) -> list[str]:
    """Name what the header of an engine of Ultralytics says otherwise than the model card."""
    arguments = _arguments(header)
    size = header.get('imgsz')
    names = header.get('names')
    end_to_end = card.output_layout == 'end_to_end'
    found = {
        'its task': (header.get('task'), 'detect'),
        'its batch': (header.get('batch'), batch),
        'its input (height, width)': (
            [size, size] if isinstance(size, int) else size,
            [card.height_px, card.width_px],
        ),
        'its channels': (header.get('channels'), 3),
        'its classes': (
            [names[index] for index in sorted(names)] if isinstance(names, dict) else names,
            list(card.class_names),
        ),
        'its dynamic shapes': (arguments.get('dynamic'), False),
        'its own NMS': (arguments.get('nms'), False),
        'its end-to-end output': (header.get('end2end'), end_to_end),
    }
    return [
        f'{what}: {_text(value)}, not {_text(wanted)}'
        for what, (value, wanted) in found.items()
        if value is not None and value != wanted
    ]


def header_precision(header: Mapping[str, Any]) -> Precision | None:
    """Precision of an engine of Ultralytics; None where its header does not say."""
    arguments = _arguments(header)
    if 'quantize' in arguments:
        return QUANTISED.get(arguments['quantize'])
    if not {'half', 'int8'} & set(arguments):
        return None
    if arguments.get('int8'):
        return 'int8'
    return 'fp16' if arguments.get('half') else 'fp32'


def _check_header(plan: EnginePlan, card: ModelCard, batch: int) -> None:
    if differences := header_differences(plan.metadata, card, batch):
        raise PlanError(
            f'{plan.path} is not an engine of {card.name}, by its header: '
            f'{"; ".join(differences)}. Export it for this model, or give the bundle and the '
            '--batch that it belongs to.'
        )


def _choose_precision(plan: EnginePlan, asked: Precision | None) -> Precision:
    stated = header_precision(plan.metadata)
    if asked and stated and asked != stated:
        raise PlanError(f'{plan.path} is {stated}, by its header, not {asked}.')
    chosen = asked or stated
    if chosen is None:
        raise PlanError(
            f'{plan.path} does not say what it computes in: give --precision int8, fp16 or fp32.'
        )
    return chosen


def _origin(plan: EnginePlan) -> str:
    header = plan.metadata
    said = f', Ultralytics {header.get("version")} of {header.get("date")}' if header else ''
    return f'{plan.path.name}{said}'


def _arguments(header: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = header.get('args')
    return arguments if isinstance(arguments, dict) else {}


def _text(value: object) -> str:
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)
