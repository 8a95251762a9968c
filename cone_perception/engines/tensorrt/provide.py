"""Compile a bundle's network for the GPU of this machine, in a process of its own.

One code drives two compilers whose Python interface is the same: `tensorrt` (10 and 11) and
`tensorrt_rtx`. Networks are strongly typed: what is INT8 and FP16 is written in the ONNX file.

    python -m cone_perception.engines.tensorrt.provide --help

prints its progress as lines of JSON. Neither a crash nor a hang of the compiler reaches the process
that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast, get_args

from cone_perception.engines.tensorrt.gpu import Gpu, read_gpu
from cone_perception.engines.tensorrt.layers import (
    Layer,
    convolution_precisions,
    layer_precisions,
    layers_from_inspector,
    layers_from_log,
)
from cone_perception.engines.tensorrt.plans import (
    Plan,
    PlanCache,
    PlanKey,
    cache_folder,
    write_whole,
)
from cone_perception.errors import (
    ConePerceptionError,
    EngineError,
    PlanError,
    RefusedPlanError,
    UnloadablePlanError,
)
from cone_perception.model_card import Bundle, NetworkFile
from cone_perception.types import BuildChoice, Encoding, GpuRuntime, GpuRuntimeChoice, Precision

Loaded = TypeVar('Loaded')

MODULES: Mapping[GpuRuntime, tuple[str, ...]] = {
    'tensorrt': ('tensorrt',),
    'tensorrt_rtx': ('tensorrt_rtx', 'tensorrt_rtx_bindings'),
}
"""GpuRuntime -> names under which its bindings are installed: the wheel of PyPI has the last."""

INSTALL = {
    'tensorrt': "TensorRT, version 10 or 11 (pip install 'cone_perception[tensorrt]')",
    'tensorrt_rtx': "TensorRT-RTX (pip install 'cone_perception[rtx]')",
}

TIMEOUT_S = 1800.0
"""A build that takes longer hangs: an INT8 YOLO takes TensorRT a few minutes."""

PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """Something that happened on the way to an engine.

    kind: reason (why there is a build), wait (for another process), phase, warning, error, built.
    done, of: steps of the phase; 0 of 0 where there are none.
    """

    kind: Literal['reason', 'wait', 'phase', 'warning', 'error', 'built']
    message: str
    done: int = 0
    of: int = 0


def ignore(event: BuildEvent) -> None:
    """What is told of a build when nobody asked."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiler made of a network.

    convolutions: precision -> how many. layers: kind -> precision -> how many.
    """

    data: bytes
    convolutions: Mapping[str, int]
    layers: Mapping[str, Mapping[str, int]]
    build_s: float


def choose_provider(choice: GpuRuntimeChoice = 'auto') -> GpuRuntime:
    """The compiler to use; auto: TensorRT where it is installed, else TensorRT-RTX.

    Raises EngineError when it is not installed.
    """
    choices = get_args(GpuRuntimeChoice)
    if choice not in choices:
        raise EngineError(f'provider {choice!r} is not known; choose one of {", ".join(choices)}')
    wanted = get_args(GpuRuntime) if choice == 'auto' else (choice,)
    for provider in wanted:
        if any(importlib.util.find_spec(name) for name in MODULES[provider]):
            return cast(GpuRuntime, provider)
    raise EngineError(f'{" or ".join(INSTALL[name] for name in wanted)} is not installed.')


def import_provider(provider: GpuRuntime) -> Any:
    """The bindings. Raises EngineError when they, or the libraries below them, do not load."""
    reasons = []
    for name in MODULES[provider]:
        if importlib.util.find_spec(name):
            try:
                return importlib.import_module(name)
            except (ImportError, OSError) as error:
                reasons.append(f'{name}: {error}')
    raise EngineError(
        f'{INSTALL[provider]} cannot be imported: {"; ".join(reasons) or "it is not installed"}.'
    )


def plan_key(
    network: NetworkFile, provider: GpuRuntime, gpu: Gpu | None = None, target: str = ''
) -> PlanKey:
    """What a plan of this network must be made for: this machine, or with `target` another's GPU.

    target: as SM89. Raises EngineError without a GPU, or without the provider.
    """
    version = str(import_provider(provider).__version__)
    if target:
        if provider != 'tensorrt_rtx' or not re.fullmatch(r'SM\d{2,3}', target):
            raise EngineError(
                f'{provider} does not compile for {target!r}: TensorRT-RTX compiles for a GPU '
                'that is not here, named by its compute capability (RTX 4060: SM89), and TensorRT '
                'only for the one of this machine.'
            )
        capability = f'{target[2:-1]}.{target[-1]}'
        machine = Gpu(name='', compute_capability=capability, driver='', cuda='')
    else:
        machine = gpu or read_gpu()
    return PlanKey(
        network_sha256=network.sha256,
        precision=network.precision,
        batch=network.batch,
        provider=provider,
        provider_version=version,
        gpu=machine.name,
        compute_capability=machine.compute_capability,
        driver=machine.driver,
        cuda=machine.cuda,
    )


def network_for_gpu(bundle: Bundle, precision: Precision, batch: int) -> NetworkFile:
    """The bundle's file that TensorRT takes: INT8 with zero point 0."""
    encoding: Encoding = 'int8' if precision == 'int8' else 'float'
    return bundle.network(precision, encoding, batch)


def for_gpu(network: NetworkFile) -> bool:
    """Whether TensorRT takes this file: it knows no uint8 activations."""
    return network.encoding != 'uint8'


def provide_plan(
    bundle: Bundle,
    precision: Precision,
    batch: int = 1,
    *,
    provider: GpuRuntimeChoice = 'auto',
    build: BuildChoice = 'auto',
    retry: bool = True,
    target: str = '',
    gpu: Gpu | None = None,
    cache: PlanCache | None = None,
    on_event: Callable[[BuildEvent], None] = ignore,
    cancelled: Callable[[], bool] = lambda: False,
    timeout_s: float = TIMEOUT_S,
    rebuild_for: str = '',
) -> Plan:
    """The bundle's engine for this machine, from the cache or built now.

    build: never refuses where it would have to build. retry: build what was built before and
    refused, or what failed to build; else RefusedPlanError. target: a compute capability such as
    SM89 compiles for that GPU instead of this machine's. gpu: None asks the driver. cancelled:
    polled while it builds. rebuild_for: why the plan in the cache is not taken, where it is not.
    Raises EngineError or PlanError that names what is wrong.
    """
    cache = cache or PlanCache(cache_folder())
    chosen = choose_provider(provider)
    network = network_for_gpu(bundle, precision, batch)
    path = bundle.checked_path(network)
    key = plan_key(network, chosen, gpu, target)
    model = bundle.card.name
    command = _command(bundle, network)
    reason = rebuild_for
    if not reason:
        try:
            return _accepted(cache.load(model, key), bundle)
        except PlanError as error:
            if isinstance(error, RefusedPlanError) and not retry:
                raise RefusedPlanError(
                    f'{error} It is not built again by itself; to try, run {command}.'
                ) from error
            reason = str(error)
    if not retry:
        _refuse_what_failed(cache, model, key, command)
    if build == 'never':
        raise PlanError(
            f'{reason} Building is switched off (build: never): run {command} on this machine.'
        )
    on_event(BuildEvent('reason', reason))
    with _announced_lock(cache, model, key, on_event) as waited:
        if waited:  # the other process was building this very plan
            try:
                return _accepted(cache.load(model, key), bundle)
            except RefusedPlanError:
                raise
            except PlanError as error:
                if not retry:
                    _refuse_what_failed(cache, model, key, command)
                on_event(BuildEvent('reason', str(error)))
        try:
            compiled = compile_apart(
                path,
                chosen,
                target or (f'SM{key.compute_capability.replace(".", "")}'),
                precision,
                timing_cache=None if target else cache.timing_cache(key),
                inspect=not target,
                on_event=on_event,
                cancelled=cancelled,
                timeout_s=timeout_s,
            )
        except EngineError as error:
            if not cancelled():
                cache.record_failure(model, key, str(error))
            raise
        cache.store(  # also what is refused next: it need not be built again to know
            model,
            key,
            compiled.data,
            convolutions=compiled.convolutions,
            layers=compiled.layers,
            built=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            build_s=round(compiled.build_s, 2),
        )
        plan = _accepted(cache.load(model, key), bundle)
    on_event(
        BuildEvent('built', f'{plan.path}: {len(plan.data) / 1e6:.1f} MB, {compiled.build_s:.0f} s')
    )
    return plan


def provide_engine(
    bundle: Bundle,
    precision: Precision,
    batch: int,
    load: Callable[[Plan], Loaded],
    on_event: Callable[[BuildEvent], None] = ignore,
    **options: Any,
) -> tuple[Plan, Loaded]:
    """A plan, as of `provide_plan`, whose options these are, and what `load` makes of it.

    A plan from the cache that TensorRT refuses although its passport fits is built once more. One
    that it refuses fresh from its compiler counts as a failed build: RefusedPlanError.
    """
    built = False

    def listen(event: BuildEvent) -> None:
        nonlocal built
        built = built or event.kind == 'built'
        on_event(event)

    plan = provide_plan(bundle, precision, batch, on_event=listen, **options)
    try:
        return plan, load(plan)
    except UnloadablePlanError as error:
        if not built:
            plan = provide_plan(
                bundle, precision, batch, on_event=listen, rebuild_for=str(error), **options
            )
            with contextlib.suppress(UnloadablePlanError):
                return plan, load(plan)
        assert plan.passport is not None
        reason = f'it was compiled, but {error}'
        cache = options.get('cache') or PlanCache(cache_folder())
        cache.record_failure(bundle.card.name, plan.passport.key, reason)
        raise RefusedPlanError(
            f'the {precision} engine of {bundle.card.name} cannot be used: {reason} Report it with '
            '`cone-perception verify-engine`.'
        ) from error


def required_int8(bundle: Bundle) -> int:
    """How many convolutions the card says compute in INT8; at least 1, whatever it says."""
    stated = bundle.card.gate.get('int8_convolutions') or [1]
    return max(1, int(stated[0]))


def check_convolutions(
    convolutions: Mapping[str, int], bundle: Bundle, precision: Precision
) -> None:
    """Raise RefusedPlanError when a plan called INT8 computes less in INT8 than its card says."""
    if precision != 'int8':
        return
    required, found = required_int8(bundle), convolutions.get('int8', 0)
    if found < required:
        rest = ', '.join(f'{n} {p}' for p, n in convolutions.items() if p != 'int8')
        raise RefusedPlanError(
            f'the engine of {bundle.card.name} computes {found} convolutions in INT8, but its card '
            f'says {required} (the others: {rest or "none"}). It is not the network that was '
            'measured: use --precision fp16, and report it with `cone-perception verify-engine`.'
        )


def compile_apart(
    network: Path,
    provider: GpuRuntime,
    target: str,
    precision: Precision,
    *,
    timing_cache: Path | None = None,
    inspect: bool = False,
    on_event: Callable[[BuildEvent], None] = ignore,
    cancelled: Callable[[], bool] = lambda: False,
    timeout_s: float = TIMEOUT_S,
) -> Compiled:
    """Compile a network in a process of its own and return what it made.

    Raises EngineError when the compiler refuses, crashes, or takes longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix='cone_perception_build_') as folder:
        plan = Path(folder) / 'plan'
        command = [
            *(sys.executable, '-m', 'cone_perception.engines.tensorrt.provide', str(network)),
            *('--provider', provider, '--target', target, '--precision', precision),
            *('--plan', str(plan)),
            *(['--timing-cache', str(timing_cache)] if timing_cache else []),
            *(['--inspect'] if inspect else []),
        ]
        last = _follow(command, on_event, cancelled, timeout_s)
        return Compiled(
            plan.read_bytes(), last['convolutions'], last['layers'], float(last['build_s'])
        )


def inspect_apart(
    network: Path,
    provider: GpuRuntime,
    plan: bytes,
    on_event: Callable[[BuildEvent], None] = ignore,
) -> Compiled:
    """Count a plan's layers in a process of its own: a foreign plan may crash its reader.

    network: ONNX file whose convolutions are looked up. Raises EngineError.
    """
    with tempfile.TemporaryDirectory(prefix='cone_perception_plan_') as folder:
        file = Path(folder) / 'plan'
        file.write_bytes(plan)
        command = [
            *(sys.executable, '-m', 'cone_perception.engines.tensorrt.provide', str(network)),
            *('--provider', provider, '--plan', str(file), '--count'),
        ]
        last = _follow(
            command,
            on_event,
            lambda: False,
            TIMEOUT_S,
            'what reads the plan',
            'the plan could not be read.',
        )
    return Compiled(plan, last['convolutions'], last['layers'], 0.0)


def _command(bundle: Bundle, network: NetworkFile) -> str:
    """What builds an engine of this network by hand."""
    options = f' --batch {network.batch}' if network.batch != 1 else ''
    options += ' --precision fp32' if network.precision == 'fp32' else ''
    return f'`cone-perception build-engine {bundle.folder}{options}`'


def _refuse_what_failed(cache: PlanCache, model: str, key: PlanKey, command: str) -> None:
    """Raise RefusedPlanError when this plan was tried here before, and could not be built."""
    failed = cache.failure(model, key)
    if failed is not None:
        raise RefusedPlanError(
            f'the engine of {model} ({key.precision}, batch {key.batch}, {key.provider}) could not '
            f'be built here at {failed.time}: {failed.reason} It is not tried again by itself; to '
            f'try, run {command}.'
        )


def _accepted(plan: Plan, bundle: Bundle) -> Plan:
    """A plan from the cache, unless it computes less in INT8 than the card says, or was refused."""
    assert plan.passport is not None
    check_convolutions(plan.passport.convolutions, bundle, plan.passport.key.precision)
    check = plan.passport.check
    if check is not None and not check.get('passed'):
        reasons = '; '.join(check.get('reasons', []))
        raise RefusedPlanError(f'{plan.path} did not answer as FP32 does: {reasons}.')
    return plan


@contextlib.contextmanager
def _announced_lock(
    cache: PlanCache, model: str, key: PlanKey, on_event: Callable[[BuildEvent], None]
) -> Any:
    """The cache's lock; says so when another process holds it for longer than a moment."""
    told = threading.Timer(
        1.0, on_event, [BuildEvent('wait', 'another process builds this engine: waiting for it')]
    )
    told.daemon = True
    told.start()
    try:
        with cache.lock(model, key) as waited:
            told.cancel()
            yield waited
    finally:
        told.cancel()


def _follow(
    command: Sequence[str],
    on_event: Callable[[BuildEvent], None],
    cancelled: Callable[[], bool],
    timeout_s: float,
    name: str = 'the compiler',
    failed: str = 'the network could not be compiled.',
) -> dict[str, Any]:
    """Run the builder's process, pass its events on, and return its last line."""
    # It ends when its standard input does: with this process, however this process ends.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
    deadline = time.monotonic() + timeout_s
    tail: list[str] = []
    result: dict[str, Any] | None = None
    try:
        while True:
            if cancelled():
                raise EngineError('the build of the engine was stopped before it was done.')
            if time.monotonic() > deadline:
                raise EngineError(
                    f'{name} did not answer within {timeout_s:.0f} s and was stopped. '
                    f'{_last_words(tail)}'
                )
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                continue
            if line is None:
                break
            entry = _entry(line)
            if entry is None:
                tail = [*tail[-19:], line.strip()]
            elif 'build_s' in entry:
                result = entry
            else:
                event = BuildEvent(**entry)
                if event.kind in ('warning', 'error'):
                    tail = [*tail[-19:], event.message]
                on_event(event)
        status = process.wait(timeout=10)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
    if status < 0:
        number = signal.Signals(-status).name
        hint = ': has the memory run out?' if number == 'SIGKILL' else ''
        raise EngineError(f'{name} crashed ({number}{hint}). {_last_words(tail)}')
    if status or result is None:
        raise EngineError(f'{failed} {_last_words(tail)}')
    return result


def _read_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed when the process is killed
        for line in stream:
            lines.put(line)
    lines.put(None)


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the builder's own; None for what a library printed."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {'kind', 'build_s'} & set(entry) else None


def _last_words(tail: Sequence[str]) -> str:
    return f'It last said: {" | ".join(tail[-4:])}' if tail else 'It said nothing.'


# From here on: what runs in the process of its own.


def compile_network(
    network: bytes,
    provider: GpuRuntime,
    target: str,
    precision: Precision,
    timing_cache: Path | None = None,
    inspect: bool = False,
    on_event: Callable[[BuildEvent], None] = ignore,
) -> Compiled:
    """Parse and compile an ONNX file in this process.

    target: compute capability, as SM89: of this machine's GPU for TensorRT. inspect: ask the
    finished engine for its layers, which needs the GPU; else they are read from the build log.
    Raises EngineError when the compiler refuses.
    """
    started = time.monotonic()
    trt = import_provider(provider)
    logger = _make_logger(trt, on_event)
    parsed = _parse(trt, logger, provider, network)
    config = parsed.builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if precision == 'fp32':
        config.clear_flag(trt.BuilderFlag.TF32)
    monitor = _make_monitor(trt, on_event)
    config.progress_monitor = monitor
    if provider == 'tensorrt_rtx':
        _set_target(trt, config, target)
    elif timing_cache:
        _use_timing_cache(config, timing_cache)
    data = parsed.builder.build_serialized_network(parsed.definition, config)
    if data is None:
        raise EngineError(
            f'{provider} {trt.__version__} could not compile the network: '
            + (' | '.join(logger.errors[-3:]) or 'it does not say why')
        )
    if provider == 'tensorrt' and timing_cache:
        write_whole(timing_cache, bytes(config.get_timing_cache().serialize()))
    plan = bytes(data)
    layers = _inspect(trt, logger, plan) if inspect else ()
    layers = layers or layers_from_log(logger.layers)
    return Compiled(
        plan,
        convolution_precisions(layers, parsed.convolutions),
        layer_precisions(layers),
        time.monotonic() - started,
    )


def count_layers(
    network: bytes,
    provider: GpuRuntime,
    plan: bytes,
    on_event: Callable[[BuildEvent], None] = ignore,
) -> Compiled:
    """What a plan that was compiled elsewhere computes of this ONNX file, by its own account.

    Raises EngineError when TensorRT does not take the plan here.
    """
    trt = import_provider(provider)
    logger = _make_logger(trt, on_event)
    if trt.Runtime(logger).deserialize_cuda_engine(plan) is None:
        raise EngineError(
            f'{provider} {trt.__version__} refuses the plan on this machine: '
            + (' | '.join(logger.errors[-3:]) or 'it does not say why')
        )
    layers = _inspect(trt, logger, plan)
    convolutions = _parse(trt, logger, provider, network).convolutions
    return Compiled(
        plan, convolution_precisions(layers, convolutions), layer_precisions(layers), 0.0
    )


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A network as the compiler has it. parser: holds its weights.

    convolutions: names of the ONNX nodes.
    """

    builder: Any
    definition: Any
    parser: Any
    convolutions: Sequence[str]


def _parse(trt: Any, logger: Any, provider: GpuRuntime, network: bytes) -> _Parsed:
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
    return _Parsed(builder, definition, parser, convolutions)


def _set_target(trt: Any, config: Any, target: str) -> None:
    known = trt.ComputeCapability.__members__
    if target not in known:
        raise EngineError(
            f'TensorRT-RTX {trt.__version__} does not compile for {target}, only for '
            f'{", ".join(name for name in known if name.startswith("SM"))}.'
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[target], 0)


def _use_timing_cache(config: Any, path: Path) -> None:
    """What was measured in earlier builds; one of another GPU or version is left aside."""
    earlier = path.read_bytes() if path.is_file() else b''
    if not config.set_timing_cache(config.create_timing_cache(earlier), False):
        config.set_timing_cache(config.create_timing_cache(b''), False)


def _inspect(trt: Any, logger: Any, plan: bytes) -> tuple[Layer, ...]:
    """The finished engine's layers; none where it cannot be loaded or does not say."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return ()
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return layers_from_inspector(text)
    except ValueError:
        return ()


def _make_logger(trt: Any, on_event: Callable[[BuildEvent], None]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps the lines that say what each layer became; passes warnings on, each once."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.layers: list[str] = []
            self.errors: list[str] = []
            self._told: set[str] = set()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
                on_event(BuildEvent('error', message))
            elif severity == trt.ILogger.WARNING:
                if message not in self._told:
                    self._told.add(message)
                    on_event(BuildEvent('warning', message))
            elif 'LayerType: ' in message:
                self.layers += [line for line in message.splitlines() if 'LayerType: ' in line]

    return Logger()


def _make_monitor(trt: Any, on_event: Callable[[BuildEvent], None]) -> Any:
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
            if force or now - self._told >= PROGRESS_EVERY_S:
                self._told = now
                on_event(BuildEvent('phase', phase, done, self._steps.get(phase, 0)))

    return Monitor()


def main(argv: Sequence[str] | None = None) -> int:
    """Compile one network and print lines of JSON: events, at last what the engine is."""
    parser = argparse.ArgumentParser(prog='python -m cone_perception.engines.tensorrt.provide')
    parser.add_argument('network', type=Path, help='ONNX file')
    parser.add_argument('--provider', choices=get_args(GpuRuntime), required=True)
    parser.add_argument('--target', help='compute capability, as SM89')
    parser.add_argument('--precision', choices=get_args(Precision))
    parser.add_argument('--plan', type=Path, required=True, help='file to write')
    parser.add_argument('--count', action='store_true', help='read the plan, do not write it')
    parser.add_argument('--timing-cache', type=Path)
    parser.add_argument('--inspect', action='store_true', help='ask the engine (needs the GPU)')
    args = parser.parse_args(argv)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter('ignore')
    network = args.network.read_bytes()

    def on_event(event: BuildEvent) -> None:
        _print(asdict(event))

    try:
        if args.count:
            compiled = count_layers(network, args.provider, args.plan.read_bytes(), on_event)
        else:
            compiled = compile_network(
                network,
                args.provider,
                args.target,
                args.precision,
                args.timing_cache,
                args.inspect,
                on_event,
            )
            write_whole(args.plan, compiled.data)
    except ConePerceptionError as error:
        on_event(BuildEvent('error', str(error)))
        return 1
    _print(
        {
            'convolutions': compiled.convolutions,
            'layers': compiled.layers,
            'build_s': compiled.build_s,
        }
    )
    return 0


def _end_with_parent() -> None:
    """Leave when whoever started this process is gone: its end of our standard input closes."""
    while os.read(0, 1):  # not sys.stdin: its lock would be held when Python ends
        pass
    os._exit(3)


def _print(entry: Mapping[str, Any]) -> None:
    print(json.dumps(entry), flush=True)


if __name__ == '__main__':
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a compiler that crashes while it is taken down has done its work
