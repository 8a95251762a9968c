"""Compile an ordered engine, or count the layers of a plan, in a process of its own.

Networks are strongly typed: the ONNX file says what should be INT8. Only the layers of the compiled
engine, from the compiler's log or its engine inspector, say what is.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cone_perception.engines.apart import run_apart, serve
from cone_perception.engines.events import BuildEvent, ignore
from cone_perception.engines.tensorrt.gpu import import_runtime, make_logger
from cone_perception.engines.tensorrt.order import EngineOrder
from cone_perception.engines.tensorrt.plans import Compiled, writing
from cone_perception.errors import EngineError
from cone_perception.files import slug, write_whole
from cone_perception.types import GpuRuntime, Precision

_KIND = re.compile(r'Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+)')
_INPUTS = re.compile(r'Inputs: \[(.*?)\], (?:Constants|Outputs)')
_DATATYPE = re.compile(r'(?:Format/)?Datatype: ([^,}\]]+)')
_WEIGHTS = re.compile(r'Weights: \{[^}]*?Type: (\w+)')
_ONNX = re.compile(r'\[ONNX Layer: ([^\]]+)\]')
_FUSED = re.compile(r' \+ | \|\| ')

_PRECISIONS = {
    'int8': 'int8', 'bf16': 'bf16', 'bfloat': 'bf16', 'half': 'fp16', 'fp16': 'fp16',
    'float': 'fp32', 'fp32': 'fp32',
}  # fmt: skip
"""Word in the name of a type -> precision; the first that fits."""

_POINTWISE = ('kgen', 'reformat', 'pointwise', 'signal', 'wait', 'noop', 'shuffle')
"""Kinds of layers that carry the names of convolutions whose remains (a bias, a rounding) they
compute, but never a convolution itself."""


def compile_apart(order: EngineOrder) -> Compiled:
    """Compile the ordered network. Raises EngineError also when that crashes, hangs, is stopped."""
    key = order.key
    here = bool(key.gpu)  # else it is compiled for a GPU that is not here
    measured = slug(f'{key.provider}-{key.provider_version}-{key.gpu}-{key.driver}')
    return _work_apart(
        order,
        ('the compiler', 'the network could not be compiled.'),
        target=f'SM{key.compute_capability.replace(".", "")}',
        precision=key.precision,
        inspect=here,
        timing_cache=order.place.folder / f'timing-{measured}.bin' if here else None,
    )


def inspect_apart(order: EngineOrder, plan: bytes) -> Compiled:
    """Count the layers of a foreign plan, which may crash its reader. Raises EngineError."""
    return _work_apart(order, ('what reads the plan', 'the plan could not be read.'), plan)


def _work_apart(
    order: EngineOrder, names: tuple[str, str], data: bytes = b'', **options: Any
) -> Compiled:
    network = order.bundle.checked_path(order.network)
    policy = order.policy
    with tempfile.TemporaryDirectory(prefix='cone_perception_build_') as folder:
        plan = Path(folder) / 'plan'
        plan.write_bytes(data)
        words = {'network': network, 'plan': plan, 'provider': order.key.provider, **options}
        module = 'cone_perception.engines.tensorrt.compile_process'
        counts = run_apart(module, words, *names, policy.on_event, policy.cancelled)
        return Compiled(plan.read_bytes(), **counts)


def work(
    network: str, plan: str, on_event: Callable[[BuildEvent], None], **options: Any
) -> dict[str, Any]:
    """Compile the file `network` into the file `plan`; where that holds a plan, count its layers.

    options: of `compile_network` or `count_layers`. Returns Compiled without its data.
    """
    onnx, given = Path(network).read_bytes(), Path(plan).read_bytes()
    if given:
        compiled = count_layers(onnx, given, on_event=on_event, **options)
    else:
        compiled = compile_network(onnx, on_event=on_event, **options)
        Path(plan).write_bytes(compiled.data)
    return {name: value for name, value in asdict(compiled).items() if name != 'data'}


def compile_network(
    network: bytes,
    provider: GpuRuntime,
    target: str,
    precision: Precision,
    timing_cache: str | None = None,
    inspect: bool = False,
    on_event: Callable[[BuildEvent], None] = ignore,
) -> Compiled:
    """Parse and compile an ONNX file in this process.

    target: compute capability, as SM89: of this machine's GPU for TensorRT. timing_cache: file of
    the compiler's measurements on this GPU, with which the next build is faster. inspect: ask the
    finished engine for its layers, which needs the GPU; else they are read from the build log.
    Raises EngineError when the compiler refuses.
    """
    started = time.monotonic()
    _, trt = import_runtime(provider)
    logger = make_logger(trt, on_event)
    builder, definition, _parser, convolutions = _parse(trt, logger, provider, network)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if precision == 'fp32':
        config.clear_flag(trt.BuilderFlag.TF32)
    monitor = make_monitor(trt, on_event)
    config.progress_monitor = monitor
    if provider == 'tensorrt_rtx':
        known = trt.ComputeCapability.__members__
        if target not in known:
            raise EngineError(
                f'TensorRT-RTX {trt.__version__} does not compile for {target}, only for '
                f'{", ".join(name for name in known if name.startswith("SM"))}.'
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(known[target], 0)
    elif timing_cache:
        path = Path(timing_cache)
        earlier = path.read_bytes() if path.is_file() else b''
        # Measurements of another GPU or version do not fit.
        if not config.set_timing_cache(config.create_timing_cache(earlier), False):
            config.set_timing_cache(config.create_timing_cache(b''), False)
    data = builder.build_serialized_network(definition, config)
    if data is None:
        raise EngineError(
            f'{provider} {trt.__version__} could not compile the network: {logger.take_errors()}'
        )
    if provider == 'tensorrt' and timing_cache:
        with writing(Path(timing_cache)):
            write_whole(Path(timing_cache), bytes(config.get_timing_cache().serialize()))
    plan = bytes(data)
    layers = (inspect and _inspect(trt, logger, plan)) or layers_from_log(logger.layers)
    counts = convolution_precisions(layers, convolutions), layer_precisions(layers)
    return Compiled(plan, *counts, time.monotonic() - started)


def count_layers(
    network: bytes, plan: bytes, provider: GpuRuntime, on_event: Callable[[BuildEvent], None]
) -> Compiled:
    """Count the layers of a plan that was compiled elsewhere, and this ONNX file's convolutions.

    Raises EngineError when TensorRT does not take the plan here.
    """
    _, trt = import_runtime(provider)
    logger = make_logger(trt, on_event)
    if trt.Runtime(logger).deserialize_cuda_engine(plan) is None:
        raise EngineError(
            f'{provider} {trt.__version__} refuses the plan on this machine: {logger.take_errors()}'
        )
    layers = _inspect(trt, logger, plan)
    *_, convolutions = _parse(trt, logger, provider, network)
    return Compiled(plan, convolution_precisions(layers, convolutions), layer_precisions(layers))


def _parse(
    trt: Any, logger: Any, provider: GpuRuntime, network: bytes
) -> tuple[Any, Any, Any, Sequence[str]]:
    """Builder, network definition, parser (which holds the weights), names of the convolutions."""
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # what pybind11 makes of a null pointer
        raise EngineError(f'{provider} makes no builder here: {error}') from error
    flags = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    # From TensorRT 11 on every network is strongly typed, and the flag deprecated.
    typed_always = provider == 'tensorrt_rtx' or int(trt.__version__.split('.')[0]) >= 11
    definition = builder.create_network(0 if typed_always else 1 << int(flags))
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse(network):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise EngineError(
            f'{provider} {trt.__version__} does not take the network: '
            + '; '.join(f'{e.node_operator()} {e.node_name()}: {e.desc()}' for e in errors[:3])
        )
    layers = (definition.get_layer(index) for index in range(definition.num_layers))
    convolutions = [layer.name for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    return builder, definition, parser, convolutions


def _inspect(trt: Any, logger: Any, plan: bytes) -> tuple[Layer, ...]:
    """The finished engine's layers; none where it cannot be loaded or does not say."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return ()
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    with contextlib.suppress(ValueError):
        return layers_from_inspector(text)
    return ()


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a compiled engine.

    kind: as the compiler calls it. inputs: precision of each input, in order. weights: precision of
    the weights, empty where the compiler does not say. onnx: names of the ONNX nodes in it.
    """

    kind: str
    inputs: tuple[str, ...]
    weights: str
    onnx: frozenset[str]

    @property
    def precision(self) -> str:
        """Precision that it computes in: int8, fp16, bf16, fp32, or other."""
        return next((p for p in (self.weights, *self.inputs[:1]) if p and p != 'other'), 'other')


def layers_from_log(lines: Iterable[str]) -> tuple[Layer, ...]:
    """Layers that a build with a verbose logger and detailed profiling prints, one per line."""
    found = []
    for line in lines:
        if head := _KIND.match(line):
            inputs, weights = _INPUTS.search(line), _WEIGHTS.search(line)
            kinds = _DATATYPE.findall(inputs[1]) if inputs else []
            of_weights = weights[1] if weights else ''
            found.append(_layer(head['name'], head['kind'], kinds, of_weights, line))
    return tuple(found)


def layers_from_inspector(text: str) -> tuple[Layer, ...]:
    """Layers of EngineInspector.get_engine_information(LayerInformationFormat.JSON)."""
    found = []
    for entry in json.loads(text).get('Layers', []):
        if isinstance(entry, dict):
            words = [str(entry.get(key, '')) for key in ('Name', 'LayerType', 'Metadata')]
            weights, tensors = entry.get('Weights'), entry.get('Inputs', [])
            of_weights = str(weights.get('Type', '')) if isinstance(weights, dict) else ''
            kinds = [str(t.get('Format/Datatype', t.get('Datatype', ''))) for t in tensors]
            found.append(_layer(words[0], words[1], kinds, of_weights, words[2]))
    return tuple(found)


def convolution_precisions(
    layers: Iterable[Layer], convolutions: Iterable[str]
) -> Mapping[str, int]:
    """Count the network's convolutions by the precision that they run in.

    convolutions: names of the ONNX nodes. One that no layer owns up to counts as `unknown`.
    """
    computing = [
        layer for layer in layers if not any(word in layer.kind.lower() for word in _POINTWISE)
    ]
    counts: Counter[str] = Counter()
    for name in convolutions:
        owners = [layer for layer in computing if name in layer.onnx]
        counts[owners[0].precision if owners else 'unknown'] += 1
    return dict(sorted(counts.items()))


def layer_precisions(layers: Iterable[Layer]) -> Mapping[str, Mapping[str, int]]:
    """Kind of layer -> precision -> how many."""
    counts: dict[str, Counter[str]] = {}
    for layer in layers:
        if layer.inputs:
            counts.setdefault(layer.kind, Counter())[layer.precision] += 1
    return {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)}


def _layer(name: str, kind: str, inputs: Iterable[str], weights: str, metadata: str) -> Layer:
    """A layer, whose name has those that were fused into it: `a + b || c`."""
    onnx = frozenset([*_ONNX.findall(metadata), *_FUSED.split(name)])
    taken = tuple(map(_precision, inputs))
    return Layer(kind.strip(), taken, weights and _precision(weights), onnx)


def _precision(text: str) -> str:
    return next((found for word, found in _PRECISIONS.items() if word in text.lower()), 'other')


def make_monitor(trt: Any, on_event: Callable[[BuildEvent], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Turns the compiler's steps into a few events a second. Called from its threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0, force=parent_phase is None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, phase: str, done: int, force: bool = False) -> None:
            now = time.monotonic()
            if force or now - self._told >= 0.5:
                self._told = now
                on_event(BuildEvent('phase', phase, done, self._steps.get(phase, 0)))

    return Monitor()


if __name__ == '__main__':
    serve(work)
