"""The order of an engine: which network, for which GPU, and what may be done to have it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

from cone_perception.engines.events import BuildEvent, EventKind, ignore
from cone_perception.engines.tensorrt.gpu import Gpu, import_runtime, read_gpu
from cone_perception.engines.tensorrt.plans import PlanKey, PlanPlace
from cone_perception.errors import EngineError, ModelError
from cone_perception.files import slug
from cone_perception.model_card import Bundle, ModelCard, NetworkFile
from cone_perception.types import (
    BuildChoice,
    Encoding,
    GpuRuntime,
    GpuRuntimeChoice,
    Precision,
    PrecisionChoice,
)

LEAST_CAPABILITY = (7, 5)
"""Compute capability of Turing: TensorRT 10 and our kernels start with it."""


@dataclass(frozen=True, slots=True)
class BuildPolicy:
    """Permissions to build an engine, and who hears of it.

    build: with never, what would have to be compiled is refused. retry: compile what was compiled
    before and refused, or what failed to compile; else RefusedPlanError. on_event: told of a build.
    cancelled: polled during it.
    """

    build: BuildChoice = 'auto'
    retry: bool = True
    on_event: Callable[[BuildEvent], None] = ignore
    cancelled: Callable[[], bool] = lambda: False

    def tell(self, kind: EventKind, text: str) -> None:
        self.on_event(BuildEvent(kind, text))


@dataclass(frozen=True, slots=True)
class EngineOrder:
    """One network of a bundle, to be run on one GPU. key: what its plan must be made for."""

    bundle: Bundle
    network: NetworkFile
    key: PlanKey
    policy: BuildPolicy

    @property
    def place(self) -> PlanPlace:
        return PlanPlace(self.bundle.card.name, self.key)

    @property
    def choice_file(self) -> Path:
        """File in which the cache notes the fastest precision of this model and batch."""
        name = f'best-{slug(self.bundle.card.name)}-b{self.network.batch}.json'
        return self.place.folder / name

    @property
    def command(self) -> str:
        """The command that builds this engine, for messages."""
        options = f' --batch {self.network.batch}' if self.network.batch != 1 else ''
        options += ' --precision fp32' if self.network.precision == 'fp32' else ''
        return f'`cone-perception build-engine {self.bundle.folder}{options}`'


def make_order(
    bundle: Bundle,
    network: NetworkFile,
    policy: BuildPolicy,
    provider: GpuRuntimeChoice = 'auto',
    gpu: Gpu | None = None,
) -> EngineOrder:
    """Order one network for this machine's GPU, or `gpu` of `target_gpu`. Raises EngineError."""
    gpu = gpu or _usable_gpu()
    chosen, trt = import_runtime(provider)
    of_network = network.sha256, network.precision, network.batch
    key = PlanKey(*of_network, chosen, str(trt.__version__), *astuple(gpu))
    return EngineOrder(bundle, network, key, policy)


def make_orders(
    bundle: Bundle,
    precision: PrecisionChoice,
    batch: int,
    policy: BuildPolicy,
    provider: GpuRuntimeChoice = 'auto',
    gpu: Gpu | None = None,
) -> list[EngineOrder]:
    """Order the network of a precision, or for `best` all that may drive, as `make_order` does."""
    gpu = gpu or _usable_gpu()
    networks = driving_networks(bundle, precision, batch, partial(policy.tell, 'warning'))
    return [make_order(bundle, network, policy, provider, gpu) for network in networks]


def _usable_gpu() -> Gpu:
    gpu = read_gpu()
    if tuple(map(int, gpu.compute_capability.split('.'))) < LEAST_CAPABILITY:
        raise EngineError(
            f'{gpu.name} has compute capability {gpu.compute_capability}, but TensorRT needs '
            f'{".".join(map(str, LEAST_CAPABILITY))} at least. Run on the CPU.'
        )
    return gpu


def target_gpu(target: str, provider: GpuRuntime) -> Gpu:
    """Any GPU of a compute capability, given as SM89, for which TensorRT-RTX compiles anywhere.

    Raises EngineError for TensorRT, which compiles for the GPU of this machine only.
    """
    if provider != 'tensorrt_rtx' or not re.fullmatch(r'SM\d{2,3}', target):
        raise EngineError(
            f'{provider} does not compile for {target!r}: TensorRT-RTX compiles for a GPU '
            'that is not here, named by its compute capability (RTX 4060: SM89), and TensorRT '
            'only for the one of this machine.'
        )
    return Gpu(name='', compute_capability=f'{target[2:-1]}.{target[-1]}', driver='', cuda='')


def networks_for_gpu(card: ModelCard) -> list[NetworkFile]:
    """The files that TensorRT takes: it knows no uint8 activations."""
    return [network for network in card.networks if network.encoding != 'uint8']


def network_for_gpu(bundle: Bundle, precision: Precision, batch: int) -> NetworkFile:
    """The bundle's file that TensorRT takes: INT8 with zero point 0."""
    encoding: Encoding = 'int8' if precision == 'int8' else 'float'
    return bundle.network(precision, encoding, batch)


def driving_networks(
    bundle: Bundle, choice: PrecisionChoice, batch: int, warn: Callable[[str], None]
) -> list[NetworkFile]:
    """The network of the precision asked for, or for `best` all that may drive.

    warn: told which is left out, and why. One that is asked for is taken whatever the gate said.
    Raises ModelError when the bundle has no such network.
    """
    card = bundle.card
    if choice != 'best':
        network = network_for_gpu(bundle, choice, batch)
        if card.failed_gate(network):
            warn(f'{choice} did not pass the gate: it is taken because precision asks for it.')
        return [network]
    usable = {n.precision: n for n in networks_for_gpu(card) if n.batch == batch}
    driving: tuple[Precision, ...] = 'int8', 'fp16'
    found = [usable[precision] for precision in driving if precision in usable]
    if card.verdict == 'not judged':
        warn(
            f'{card.name} was never compared with FP32 on labelled pictures: '
            'run `cone-training gate` on it.'
        )
    for network in [n for n in found if card.failed_gate(n)]:
        warn(f'{network.precision} is left out: it did not pass the gate, by its card.')
        found.remove(network)
    if not found and 'fp32' in usable:
        found.append(usable['fp32'])
    if not found:
        raise ModelError(
            f'{bundle.folder} holds no network of batch {batch} that may drive on a GPU: neither '
            'INT8 with int8 encoding nor FP16 that passed the gate, nor FP32. Export the model '
            'with them.'
        )
    return found
