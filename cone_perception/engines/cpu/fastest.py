"""Which of a model's networks this machine's CPU runs fastest, of those that may drive.

networks, arithmetic -> what passed the gate -> timed in turns, once -> the fastest, compiled
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cone_perception import files as whole_file
from cone_perception.engines import Engine
from cone_perception.engines.cpu.open import open_by_precision, open_network
from cone_perception.engines.latency import measure_latencies
from cone_perception.engines.tensorrt.plans import slug
from cone_perception.errors import EngineError
from cone_perception.model_card import Bundle, ModelCard, NetworkFile, read_bundle
from cone_perception.types import Arithmetic

if TYPE_CHECKING:
    from cone_perception.engines.cpu.openvino import OpenVinoEngine

RUNS = 30
"""Of each, in turns: a second or so in all."""

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Candidate:
    """One network, and what it would be computed in."""

    network: NetworkFile
    arithmetic: Arithmetic

    @property
    def name(self) -> str:
        return self.network.kind(self.arithmetic)


def open_fastest(
    bundle: Bundle,
    batch: int,
    threads: int,
    streams: int,
    cache: Path,
    cancelled: Callable[[], bool] = lambda: False,
) -> Engine:
    """Open what runs fastest in OpenVINO here, of all that passed the model's gate.

    It is measured at the first start. The answer, and the network as OpenVINO compiled it, are kept
    in the folder `cache` until the model, OpenVINO, the CPU or the settings change. Where there is
    nothing to choose from, it is `open_by_precision`'s answer.
    cancelled: polled while it measures. Raises as `open_by_precision`, and EngineError when
    measuring fails or is stopped.
    """
    # Without OpenVINO there is nothing to measure, and open_by_precision says what is missing.
    candidates = driving_candidates(bundle, batch) if find_spec('openvino') else []
    if len(candidates) < 2:
        return open_by_precision(bundle, 'openvino', batch, threads, streams=streams)
    kept = cache / f'cpu-{slug(bundle.card.name)}-b{batch}.json'
    compiled = kept.with_suffix('.blob')
    measured_for = _measured_for(bundle.card, candidates, threads, streams)
    by_name = {candidate.name: candidate for candidate in candidates}
    found = _read(kept, measured_for)
    if str(found.get('fastest')) not in by_name:
        found = measure_apart(bundle, batch, threads, streams, compiled, cancelled)
        content = {'measured_for': measured_for, **found}
        _write(kept, (json.dumps(content, indent=2) + '\n').encode())
    fastest = by_name[found['fastest']]
    as_compiled = _read_compiled(compiled, found.get('compiled_sha256', ''))
    return _open(bundle, fastest, threads, streams, as_compiled)


def driving_candidates(bundle: Bundle, batch: int) -> list[Candidate]:
    """What may be chosen by its speed: passed the gate, and this CPU can compute it."""
    candidates = [Candidate(network, 'float32') for network in networks_for_cpu(bundle.card, batch)]
    if computes_bfloat16():
        candidates += [Candidate(each.network, 'bfloat16') for each in candidates]
    return [each for each in candidates if bundle.card.passed_gate(each.network, each.arithmetic)]


def networks_for_cpu(card: ModelCard, batch: int) -> list[NetworkFile]:
    """OpenVINO's INT8, and a float one: FP16 and FP32 are the same to a CPU, so one of them."""
    of_batch = [network for network in card.networks if network.batch == batch]
    quantised = [network for network in of_batch if network.encoding == 'uint8']
    floats = [network for network in of_batch if network.encoding == 'float']
    return quantised + sorted(floats, key=lambda network: network.precision)[:1]


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for it; elsewhere it would be imitated, and slow."""
    import openvino

    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def processor_name() -> str:
    """As Linux calls it, or else the architecture."""
    info = Path('/proc/cpuinfo')
    text = info.read_text(encoding='utf-8') if info.is_file() else ''
    found = re.search(r'^model name\s*:\s*(.+)$', text, re.MULTILINE)
    return found[1] if found else platform.machine()


def measure_apart(
    bundle: Bundle,
    batch: int,
    threads: int,
    streams: int,
    compiled: Path,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """Which candidate is `fastest`, and the `medians_ms` of all, measured in a process of its own.

    Networks that were opened once leave their memory behind, and only one of them will drive.
    compiled: where the fastest one goes as it was compiled; `compiled_sha256` is its hash, empty
    where it could not be written.
    """
    command = [sys.executable, '-m', 'cone_perception.engines.cpu.fastest', str(bundle.folder)]
    command += [*(str(number) for number in (batch, threads, streams)), str(compiled)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while True:
            try:
                printed, complaints = process.communicate(timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                if cancelled():
                    raise EngineError('the CPU was being measured when it was stopped.') from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode:
        last = complaints.strip().splitlines()[-1:] or ['it said nothing']
        raise EngineError(
            f'which network of {bundle.card.name} is fastest on this CPU could not be measured '
            f'({last[0]}). Name one with `precision`, as int8, to do without.'
        )
    found: dict[str, Any] = json.loads(printed)
    return found


def main(argv: Sequence[str]) -> int:
    """In the process of its own: bundle, batch, threads, streams, file -> what it found as JSON."""
    bundle = read_bundle(Path(argv[0]))
    batch, threads, streams = map(int, argv[1:4])
    candidates = driving_candidates(bundle, batch)
    engines = [_open(bundle, candidate, threads, streams) for candidate in candidates]
    shape = (1, bundle.card.height_px, bundle.card.width_px, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    latencies = measure_latencies(engines, noise, RUNS)
    names = [candidate.name for candidate in candidates]
    medians_ms = {name: each.median_ms for name, each in zip(names, latencies, strict=True)}
    fastest = min(medians_ms, key=lambda name: medians_ms[name])
    content = engines[names.index(fastest)].export()
    written = _write(Path(argv[4]), content)
    found = {
        'fastest': fastest,
        'medians_ms': medians_ms,
        'compiled_sha256': hashlib.sha256(content).hexdigest() if written else '',
    }
    print(json.dumps(found))
    return 0


def _open(
    bundle: Bundle, candidate: Candidate, threads: int, streams: int, compiled: bytes = b''
) -> OpenVinoEngine:
    network, arithmetic = candidate.network, candidate.arithmetic
    engine = open_network(bundle, network, 'openvino', threads, arithmetic, streams, compiled)
    return cast('OpenVinoEngine', engine)


def _measured_for(
    card: ModelCard, candidates: list[Candidate], threads: int, streams: int
) -> dict[str, Any]:
    """What a measurement, and the compiled network, depend on."""
    import openvino

    return {
        'networks': {candidate.name: candidate.network.sha256 for candidate in candidates},
        'classes': list(card.class_names),
        'preprocessing': asdict(card.preprocessing),
        'openvino': openvino.__version__,
        'processor': processor_name(),
        'cores': len(os.sched_getaffinity(0)),
        'threads': threads,
        'streams': streams,
    }


def _read(kept: Path, measured_for: dict[str, Any]) -> dict[str, Any]:
    """What was found under these conditions; empty where it was not measured."""
    try:
        raw = json.loads(kept.read_text(encoding='utf-8'))
        return dict(raw) if raw['measured_for'] == measured_for else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # it is only a measurement: without it, it is made again


def _read_compiled(compiled: Path, sha256: str) -> bytes:
    """Empty where it is not what was written: the engine then compiles the network itself."""
    try:
        content = compiled.read_bytes()
    except OSError:
        return b''
    return content if hashlib.sha256(content).hexdigest() == sha256 else b''


def _write(path: Path, content: bytes) -> bool:
    """False where that cannot be: the next start measures or compiles again, as this one did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write_whole(path, content)
    except OSError:
        return False
    return True


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
