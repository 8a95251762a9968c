"""Which precisions may drive, and which of them is fastest on this GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cone_perception.engines.latency import Latency
from cone_perception.engines.tensorrt.plans import PlanCache, PlanKey, slug, write_whole
from cone_perception.engines.tensorrt.provide import for_gpu, network_for_gpu
from cone_perception.errors import ModelError
from cone_perception.model_card import Bundle, ModelCard
from cone_perception.types import Precision, PrecisionChoice

_DRIVING: tuple[Precision, ...] = ('int8', 'fp16')


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest of several engines of one model.

    keys: precision -> hash of its plan's key. medians_ms: precision -> what was measured.
    """

    precision: Precision
    keys: Mapping[Precision, str]
    medians_ms: Mapping[Precision, float]


def buildable_precisions(
    bundle: Bundle, batch: int, choice: PrecisionChoice, warn: Callable[[str], None]
) -> tuple[Precision, ...]:
    """The precisions to build: the one asked for, or for `best` those that may drive.

    warn: told which is left out, and why. One that is asked for is built whatever the gate said.
    Raises ModelError when the bundle has no network for it.
    """
    if choice != 'best':
        network = network_for_gpu(bundle, choice, batch)
        if bundle.card.verdict != 'not judged' and not bundle.card.passed_gate(network):
            warn(f'{choice} did not pass the gate: it is taken because precision asks for it.')
        return (choice,)
    usable = {n.precision: n for n in bundle.card.networks if n.batch == batch and for_gpu(n)}
    found: list[Precision] = [p for p in _DRIVING if p in usable]
    if bundle.card.verdict == 'not judged':
        warn(
            f'{bundle.card.name} was never compared with FP32 on labelled pictures: '
            'run `cone-training gate` on it.'
        )
    else:
        for precision in [p for p in found if not bundle.card.passed_gate(usable[p])]:
            warn(f'{precision} is left out: it did not pass the gate, by its card.')
            found.remove(precision)
    if not found and 'fp32' in usable:
        found.append('fp32')
    if not found:
        raise ModelError(
            f'{bundle.folder} holds no network of batch {batch} that may drive on a GPU: neither '
            'INT8 with int8 encoding nor FP16 that passed the gate, nor FP32. Export the model '
            'with them.'
        )
    return tuple(found)


def choose(keys: Mapping[Precision, PlanKey], latencies: Mapping[Precision, Latency]) -> Choice:
    """The precision with the lowest median."""
    return Choice(
        min(latencies, key=lambda precision: latencies[precision].median_ms),
        {precision: key.sha256() for precision, key in keys.items()},
        {precision: round(latency.median_ms, 4) for precision, latency in latencies.items()},
    )


def write_choice(cache: PlanCache, card: ModelCard, batch: int, choice: Choice) -> Path:
    path = _path(cache, card, batch)
    write_whole(path, (json.dumps(asdict(choice), indent=2) + '\n').encode())
    return path


def read_choice(
    cache: PlanCache, card: ModelCard, batch: int, keys: Mapping[Precision, PlanKey]
) -> Precision | None:
    """What was measured to be fastest; None where that was never done, or not on this machine.

    keys: of the plans as they would be built now.
    """
    try:
        raw = json.loads(_path(cache, card, batch).read_text(encoding='utf-8'))
        choice = Choice(**raw)
        known = {precision: key.sha256() for precision, key in keys.items()}
        return choice.precision if choice.keys == known else None
    except (OSError, ValueError, TypeError):
        return None  # it is only a measurement: without it, it is made again


def forget_choice(cache: PlanCache, card: ModelCard, batch: int) -> None:
    """To be called when a plan that was measured has become another."""
    _path(cache, card, batch).unlink(missing_ok=True)


def _path(cache: PlanCache, card: ModelCard, batch: int) -> Path:
    return cache.folder / f'best-{slug(card.name)}-b{batch}.json'
