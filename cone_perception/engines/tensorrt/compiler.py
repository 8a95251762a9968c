"""Compile an ordered engine, or count the layers of a plan, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cone_perception.engines.apart import run_apart
from cone_perception.engines.tensorrt.order import EngineOrder

MODULE = 'cone_perception.engines.tensorrt.compile_process'


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled network.

    data: the plan. convolutions: precision -> how many. layers: kind -> precision -> how many.
    """

    data: bytes
    convolutions: Mapping[str, int]
    layers: Mapping[str, Mapping[str, int]]
    build_s: float


def compile_apart(order: EngineOrder) -> Compiled:
    """Compile the ordered network.

    Raises EngineError when the compiler refuses, crashes, hangs, or is stopped.
    """
    key = order.key
    here = bool(key.gpu)  # else it is compiled for a GPU that is not here
    options = {
        'target': f'SM{key.compute_capability.replace(".", "")}',
        'precision': key.precision,
        'inspect': here,
        'timing_cache': order.policy.cache.timing_cache(key) if here else None,
    }
    return _work(order, options, ('the compiler', 'the network could not be compiled.'))


def inspect_apart(order: EngineOrder, plan: bytes) -> Compiled:
    """Count the layers of a plan: a foreign one may crash its reader.

    order: of the network whose convolutions are looked up. Raises EngineError.
    """
    return _work(
        order, {'count': True}, ('what reads the plan', 'the plan could not be read.'), plan
    )


def _work(
    order: EngineOrder, options: Mapping[str, Any], names: tuple[str, str], data: bytes = b''
) -> Compiled:
    network = order.bundle.checked_path(order.network)
    policy = order.policy
    with tempfile.TemporaryDirectory(prefix='cone_perception_build_') as folder:
        plan = Path(folder) / 'plan'
        plan.write_bytes(data)
        words = {'network': network, 'provider': order.key.provider, 'plan': plan, **options}
        counts = run_apart(MODULE, words, *names, policy.on_event, policy.cancelled)
        return Compiled(plan.read_bytes(), **counts)
