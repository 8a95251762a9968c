"""A plan that was compiled elsewhere: held against the bundle, then kept as the bundle's own.

Ultralytics writes what a plan is in front of it: that is compared with the card before the plan is
touched. Then the plan is counted, loaded and compared with FP32, as every plan is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cone_perception.engines import Engine
from cone_perception.engines.agreement import check_against_card
from cone_perception.engines.check import check_engine
from cone_perception.engines.tensorrt.fastest import forget_choice
from cone_perception.engines.tensorrt.gpu import Gpu
from cone_perception.engines.tensorrt.plans import RTX_MAGIC, Passport, Plan, PlanCache, read_plan
from cone_perception.engines.tensorrt.provide import (
    BuildEvent,
    check_convolutions,
    choose_provider,
    inspect_apart,
    network_for_gpu,
    plan_key,
)
from cone_perception.errors import PlanError, RefusedPlanError
from cone_perception.model_card import Bundle, ModelCard
from cone_perception.types import GpuRuntime, Precision

QUANTISED: Mapping[object, Precision] = {None: 'fp32', 32: 'fp32', 16: 'fp16', 8: 'int8'}
"""Ultralytics' argument `quantize` -> precision; earlier versions had `half` and `int8`."""


def adopt_plan(
    bundle: Bundle,
    path: Path,
    precision: Precision | None,
    batch: int,
    cache: PlanCache,
    on_event: Callable[[BuildEvent], None],
    open_engine: Callable[[Bundle, Plan], Engine],
    gpu: Gpu | None = None,
) -> Plan:
    """Check a plan and put it into the cache as the bundle's for this machine.

    precision: None takes what Ultralytics' header says. gpu: None asks the driver.
    Raises PlanError that names what differs, EngineError, ModelError. Then the cache is as before.
    """
    plan = read_plan(path)
    _check_header(plan, bundle.card, batch)
    chosen = _choose_precision(plan, precision)
    network = network_for_gpu(bundle, chosen, batch)
    provider: GpuRuntime = 'tensorrt_rtx' if plan.data[:4] == RTX_MAGIC else 'tensorrt'
    key = plan_key(network, choose_provider(provider), gpu)
    on_event(BuildEvent('phase', 'counting its layers'))
    counted = inspect_apart(bundle.checked_path(network), provider, plan.data, on_event)
    try:
        check_convolutions(counted.convolutions, bundle, chosen)
    except RefusedPlanError as error:
        hint = (
            ' Unknown are those of a plan that was compiled without detailed profiling.'
            if 'unknown' in counted.convolutions
            else ''
        )
        raise RefusedPlanError(f'{path} is not taken: {error}{hint}') from error
    entries: dict[str, Any] = {
        'convolutions': counted.convolutions,
        'layers': counted.layers,
        'built': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'build_s': 0.0,
        'origin': _origin(plan),
    }
    sha256 = hashlib.sha256(plan.data).hexdigest()
    passport = Passport(bundle.card.name, key, sha256, len(plan.data), **entries)
    on_event(BuildEvent('phase', 'comparing it with FP32'))
    engine = open_engine(bundle, Plan(path, plan.data, plan.metadata, passport))
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
    with cache.lock(bundle.card.name, key):
        cache.store(bundle.card.name, key, plan.data, check=check.to_dict(), **entries)
        forget_choice(cache, bundle.card, batch)
        return cache.load(bundle.card.name, key)


def header_differences(header: Mapping[str, Any], card: ModelCard, batch: int) -> list[str]:
    """What an engine of Ultralytics is by its header, and is not by the card; in words."""
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
    """What an engine of Ultralytics computes in; None where its header does not say."""
    arguments = _arguments(header)
    if 'quantize' in arguments:
        return QUANTISED.get(arguments['quantize'])
    if not {'half', 'int8'} & set(arguments):
        return None
    if arguments.get('int8'):
        return 'int8'
    return 'fp16' if arguments.get('half') else 'fp32'


def _check_header(plan: Plan, card: ModelCard, batch: int) -> None:
    if differences := header_differences(plan.metadata, card, batch):
        raise PlanError(
            f'{plan.path} is not an engine of {card.name}, by its header: '
            f'{"; ".join(differences)}. Export it for this model, or give the bundle and the '
            '--batch that it belongs to.'
        )


def _choose_precision(plan: Plan, asked: Precision | None) -> Precision:
    stated = header_precision(plan.metadata)
    if asked and stated and asked != stated:
        raise PlanError(f'{plan.path} is {stated}, by its header, not {asked}.')
    chosen = asked or stated
    if chosen is None:
        raise PlanError(
            f'{plan.path} does not say what it computes in: give --precision int8, fp16 or fp32.'
        )
    return chosen


def _origin(plan: Plan) -> str:
    header = plan.metadata
    said = f', Ultralytics {header.get("version")} of {header.get("date")}' if header else ''
    return f'{plan.path.name}{said}'


def _arguments(header: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = header.get('args')
    return arguments if isinstance(arguments, dict) else {}


def _text(value: object) -> str:
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)
