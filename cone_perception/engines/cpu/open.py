"""The network that drives on a CPU: the fastest of those that are right on this machine.

networks that passed the gate -> compared with FP32's stored answers -> timed in turns -> one, kept

A process of its own examines them at the first start: networks that were opened once leave their
memory behind, and only one of them will drive.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

import cone_perception
from cone_perception.accuracy.intervals import Float64
from cone_perception.engines import Engine, check_against_card, lone_of
from cone_perception.engines.apart import run_apart, serve
from cone_perception.engines.check import REFERENCE_FILE, check_engine, measure_rounds, run_of
from cone_perception.engines.kept import check_private, keep, read_kept
from cone_perception.engines.machine import processor_name, vector_instructions
from cone_perception.errors import EngineError, ModelError, told_as
from cone_perception.files import read_noted, slug, to_json, write_json
from cone_perception.model_card import Bundle, ModelCard, NetworkFile, read_bundle
from cone_perception.types import Arithmetic, CpuRuntime, Precision, PrecisionChoice

if TYPE_CHECKING:
    from cone_perception.engines.cpu.openvino import OpenVinoEngine

ROUNDS = 30
"""Runs of each network, in turns: a second or so in all."""

LEAST_GAIN = 0.05
"""A network takes the place of the usual one only when it is surely faster by this share."""

WITHOUT_BFLOAT16 = (
    *('SSE41', 'AVX', 'AVX2', 'AVX2_VNNI', 'AVX2_VNNI_2'),
    *('AVX512_CORE', 'AVX512_CORE_VNNI'),
)
"""Values of ONEDNN_MAX_CPU_ISA."""

CpuNetwork = tuple[NetworkFile, Arithmetic]
"""One network, and the arithmetic of its layers that are not INT8."""


@dataclass(frozen=True, slots=True)
class CpuOrder:
    """The network that is asked for on the CPU.

    precision: best is the fastest that passed the gate; None is INT8 where the bundle has it, else
    FP32, else FP16. batch: pictures per run. threads: 0 leaves the choice to the runtime. streams:
    runs at the same time in OpenVINO, which share the threads.
    """

    bundle: Bundle
    runtime: CpuRuntime = 'openvino'
    precision: PrecisionChoice | None = None
    batch: int = 1
    threads: int = 0
    streams: int = 1

    @property
    def words(self) -> dict[str, Any]:
        """Everything but the bundle."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != 'bundle'}

    @property
    def is_choice(self) -> bool:
        """The speed decides, among networks that were judged."""
        judged = self.bundle.card.verdict != 'not judged'
        return judged and self.precision == 'best' and self.runtime == 'openvino'

    @property
    def is_checked(self) -> bool:
        """The bundle has FP32's answers to compare with."""
        return REFERENCE_FILE in self.bundle.card.other_files

    def candidates(self) -> dict[str, CpuNetwork]:
        """The networks that may drive, by name, the usual one first. Raises ModelError."""
        card, precision = self.bundle.card, self.precision
        found: list[CpuNetwork] = []
        if precision == 'best' and self.runtime == 'openvino':
            found = [(network, 'float32') for network in networks_for_cpu(card, self.batch)]
            if self.is_choice and computes_bfloat16():
                found += [(network, 'bfloat16') for network, _ in found]
        if self.is_choice:
            found = [each for each in found if card.passed_gate(*each)]
        if not self.is_choice or not found:
            asked = None if precision == 'best' else precision
            found.insert(0, (network_of(self.bundle, asked, self.batch), 'float32'))
        return {network.kind(arithmetic): (network, arithmetic) for network, arithmetic in found}

    def open(self, chosen: CpuNetwork, compiled: bytes = b'', lone: bool = True) -> Engine:
        """Open one of the candidates. compiled, lone: see OpenVinoEngine."""
        network, arithmetic = chosen
        rest = arithmetic, self.streams, compiled, lone
        return open_network(self.bundle, network, self.runtime, self.threads, *rest)


def open_fastest(
    order: CpuOrder,
    cache: Path,
    warn: Callable[[str], None],
    cancelled: Callable[[], bool] = lambda: False,
) -> Engine:
    """Open the network that drives: one that answers as FP32 does, and the fastest of those.

    The first start compares each candidate with the bundle's stored FP32 answers, where it has
    some, and times them. The result, and the network as OpenVINO compiled it, are kept in the
    folder `cache`, for all that they depend on.
    warn: told at every start which network is not used, and why, or that the one that is used did
    not pass the gate. cancelled: polled meanwhile.
    Raises ModelError, and EngineError when the runtime is missing, when no network is right, or
    when the examination fails or is stopped; InstallError when others can write what is kept.
    """
    if not find_spec(order.runtime):  # says what is missing
        return order.open((network_of(order.bundle, None, order.batch), 'float32'))
    networks, card = order.candidates(), order.bundle.card
    for network, arithmetic in networks.values():  # one that did not pass is the only one
        if card.failed_gate(network, arithmetic):
            why = 'asks for it' if order.precision == network.precision else 'names no other'
            warn(f'{network.precision} did not pass the gate: it is taken because precision {why}.')
    if not order.is_checked and (len(networks) == 1 or not order.is_choice):
        return order.open(next(iter(networks.values())))
    conditions = _conditions(order, networks)
    digest = hashlib.sha256(to_json(conditions, sort_keys=True).encode()).hexdigest()
    kept = cache / f'cpu-{slug(card.name)}-b{order.batch}-{digest[:16]}.json'
    check_private(kept)
    found = read_noted(kept)
    if not ({'fastest', 'refused', 'lone'} <= set(found) and found['fastest'] in (*networks, None)):
        found = examine_apart(order, kept, cancelled)
        with contextlib.suppress(OSError):  # the next start examines them again, as this one did
            write_json(kept, {'measured_for': conditions, **found}, private=True)
    refused = [f'{each} does not answer as FP32 does: {why}' for each, why in found['refused']]
    if found['fastest'] is None:
        raise EngineError(
            f'no network of {card.name} may drive on this CPU: {"; ".join(refused)}. Take another '
            'precision, or export the model again.'
        )
    for text in refused:
        warn(f'{text}. {found["fastest"]} is used instead.')
    compiled = read_kept(_compiled_path(kept, found['fastest']))
    return order.open(networks[found['fastest']], compiled, found['lone'])


def networks_for_cpu(card: ModelCard, batch: int) -> list[NetworkFile]:
    """OpenVINO's INT8, and a float one: FP16 and FP32 are the same to a CPU, so one of them.

    FP16, as its file is smaller, but not where it was judged and did not pass.
    """
    of_batch = [network for network in card.networks if network.batch == batch]
    quantised = [network for network in of_batch if network.encoding == 'uint8']
    floats = [network for network in of_batch if network.encoding == 'float']
    floats.sort(key=lambda n: (card.failed_gate(n), n.precision))
    return quantised + floats[:1]


def choose(names: Sequence[str], times_ms: Float64) -> str:
    """The fastest network, if it is surely faster than the first, which is the usual one.

    times_ms: (ROUNDS, networks), a row for each round. Both times of a round are of the same
    moment, so their ratio holds on a busy machine too. A network is surely faster when even the
    upper end of the interval of its median ratio lies below 1 - LEAST_GAIN.
    """
    ratios = np.sort(times_ms / times_ms[:, :1], axis=0)
    # The median of 30 values lies below the 10th from above in 97.9 % of all cases (order
    # statistics, Binomial(30, 1/2)), whatever their distribution.
    sure = ratios[-10] < 1 - LEAST_GAIN
    medians = np.where(sure, np.median(ratios, axis=0), np.inf)
    return names[int(medians.argmin())] if sure.any() else names[0]


def examine_apart(order: CpuOrder, kept: Path, cancelled: Callable[[], bool]) -> Any:
    """Run `examine` in a process of its own."""
    return run_apart(
        'cone_perception.engines.cpu.open',
        {**order.words, 'bundle': order.bundle.folder, 'kept': kept},
        'the measuring of the CPU',
        f'the networks of {order.bundle.card.name} could not be examined on this CPU. Copy the '
        'whole bundle again, or name another precision.',
        cancelled=cancelled,
    )


def examine(bundle: str, kept: str, on_event: object, **words: Any) -> dict[str, Any]:
    """Compare the candidates with FP32's answers, time those that are right, and choose.

    kept: file of the result; the chosen network goes beside it as OpenVINO compiled it.
    Both ways that a network runs count: on its share of the threads, and by itself on all.
    Returns `fastest`, a name or None; `refused`, names with their reasons; `lone`, whether a run by
    itself shall have all threads: unless that is surely slower; `medians_ms`, of both ways, empty
    where nothing was timed.
    """
    order = CpuOrder(read_bundle(Path(bundle)), **words)
    engines = {name: order.open(each) for name, each in order.candidates().items()}
    refused = []
    if order.is_checked:
        for name, engine in list(engines.items()):
            both = dict.fromkeys((engine, lone_of(engine)))
            reasons = [text for way in both for text in check_engine(way, order.bundle).reasons]
            if reasons:
                refused.append((name, '; '.join(dict.fromkeys(reasons))))
                engines.pop(name).close()
    names = list(engines)
    found: dict[str, Any] = {'fastest': None, 'refused': refused, 'lone': True, 'medians_ms': {}}
    if not names:
        return found
    fastest = names[0]
    if order.is_choice and (len(names) > 1 or order.streams > 1):
        shape = (1, order.bundle.card.height_px, order.bundle.card.width_px, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        ways = [way for engine in engines.values() for way in (lone_of(engine), engine)]
        times_ms = measure_rounds([run_of(way, noise) for way in ways], ROUNDS)
        by_network = times_ms.reshape(ROUNDS, len(names), 2)
        fastest = choose(names, by_network.sum(axis=2))
        found['lone'] = choose(['lone', 'shared'], by_network[:, names.index(fastest)]) == 'lone'
        medians = np.median(by_network, axis=0).tolist()
        found['medians_ms'] = dict(zip(names, medians, strict=True))
    found['fastest'] = fastest
    if order.runtime == 'openvino':
        keep(_compiled_path(Path(kept), fastest), cast('OpenVinoEngine', engines[fastest]).export())
    return found


def _conditions(order: CpuOrder, networks: Mapping[str, CpuNetwork]) -> dict[str, Any]:
    """Everything that the result and the compiled network depend on."""
    card = order.bundle.card
    return {
        'networks': {name: network.sha256 for name, (network, _) in networks.items()},
        'reference': card.other_files.get(REFERENCE_FILE, ''),
        'thresholds': [*card.thresholds.items()],
        'classes': card.class_names,
        'nms_iou': card.nms_iou,
        'preprocessing': card.preprocessing,
        'release': cone_perception.__version__,
        'runtime_release': importlib.import_module(order.runtime).__version__,
        'processor': processor_name(),
        'instructions': [*vector_instructions(), *os.environ.get('ONEDNN_MAX_CPU_ISA', '').split()],
        'cores': len(os.sched_getaffinity(0)),
        **order.words,
    }


def _compiled_path(kept: Path, name: str) -> Path:
    return kept.with_suffix(f'.{name}.blob')


def open_network(
    bundle: Bundle,
    network: NetworkFile,
    runtime: CpuRuntime = 'openvino',
    threads: int = 0,
    arithmetic: Arithmetic = 'float32',
    streams: int = 1,
    compiled: bytes = b'',
    lone: bool = True,
) -> Engine:
    """Load one network of the bundle, whichever it is, and compare it with the model card.

    arithmetic: bfloat16 only with OpenVINO, on a CPU that computes it. streams: of OpenVINO, so
    many runs at the same time share the threads. compiled, lone: of OpenVINO, see its engine.
    Raises ModelError when file and card disagree, EngineError when the runtime is missing or fails.
    """
    path = bundle.checked_path(network)
    engine: Engine
    advice = "Install it with: pip install 'cone_perception[cpu]'"
    missing = f'the runtime of engine {runtime!r} is not installed'
    with told_as(EngineError, missing, ImportError, advice=advice):
        if runtime == 'openvino':
            from cone_perception.engines.cpu.openvino import OpenVinoEngine

            rest = threads, arithmetic, streams, compiled, lone
            engine = OpenVinoEngine(path, network, bundle.card.preprocessing, *rest)
        else:
            from cone_perception.engines.cpu.onnxruntime import OnnxRuntimeEngine

            engine = OnnxRuntimeEngine(path, network, bundle.card.preprocessing, threads)
    try:
        check_against_card(engine.info, bundle, str(path), network.batch)
    except ModelError:
        engine.close()
        raise
    return engine


def network_of(bundle: Bundle, precision: Precision | None, batch: int) -> NetworkFile:
    """Find the bundle's network for CPUs of a precision.

    precision: None takes INT8 where the bundle has it, else FP32, else FP16.
    Raises ModelError when the bundle has none.
    """
    if precision is None:
        kinds = {(n.precision, n.encoding) for n in bundle.card.networks}
        quantised = ('int8', 'uint8') in kinds
        precision = 'int8' if quantised else 'fp32' if ('fp32', 'float') in kinds else 'fp16'
    return bundle.network(precision, 'uint8' if precision == 'int8' else 'float', batch)


def computes_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16; elsewhere it is imitated, and slow.

    Also False where ONEDNN_MAX_CPU_ISA leaves them out: OpenVINO offers them all the same, and
    fails.
    """
    import openvino

    if os.environ.get('ONEDNN_MAX_CPU_ISA', '').upper() in WITHOUT_BFLOAT16:
        return False
    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


if __name__ == '__main__':
    serve(examine)
