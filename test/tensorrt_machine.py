"""A machine with TensorRT 10.9 and a GPU, as far as what orders an engine can see."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from cone_perception.engines.check import Latency
from cone_perception.engines.tensorrt import order
from cone_perception.engines.tensorrt.fastest import BuiltEngine, keep_fastest
from cone_perception.engines.tensorrt.gpu import Gpu
from cone_perception.engines.tensorrt.order import BuildPolicy, EngineOrder, make_order
from cone_perception.model_card import Bundle

CAR = Gpu('NVIDIA GeForce RTX 4060 Laptop GPU', '8.9', '550.54.14', '12.4')


def pretend_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType('tensorrt')
    module.__version__, module.__spec__ = '10.9', ModuleSpec('tensorrt', None)
    monkeypatch.setitem(sys.modules, 'tensorrt', module)
    monkeypatch.setattr(order, 'read_gpu', lambda: CAR)


def order_for(
    bundle: Bundle, precision: str, provider: str = 'auto', gpu: Gpu | None = None, **policy: object
) -> EngineOrder:
    """The order of one network of batch 1."""
    network = order.network_for_gpu(bundle, precision, 1)
    return make_order(bundle, network, BuildPolicy(**policy), provider, gpu)


def note_speeds(*measured: tuple[EngineOrder, float]) -> None:
    """Keep the fastest of these orders, as if their engines took so many milliseconds."""
    keep_fastest(
        [BuiltEngine(order, None, None, Latency(ms, ms, 5)) for order, ms in measured], print
    )
