"""Compiled engines on disk: a plan, its passport beside it, and their place in the cache.

A plan belongs to one network, one GPU, one driver and one version of its compiler. The passport
says to which; what does not match is named, never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cone_perception.engines.kept import check_private
from cone_perception.errors import PlanError, told_as
from cone_perception.files import (
    cache_folder,
    is_locked,
    locked,
    parse_json,
    read_json,
    read_noted,
    slug,
    write_json,
    write_whole,
)
from cone_perception.types import GpuRuntime, Precision

SCHEMA = 1
RTX_MAGIC = b'vtrt'


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Network and machine that a plan was made for; all of it must match where it is loaded.

    network_sha256: of the ONNX file. provider_version: of the compiler. Then what `Gpu` says of the
    machine; a plan for any with one compute capability (of TensorRT-RTX) has that alone.
    """

    network_sha256: str
    precision: Precision
    batch: int
    provider: GpuRuntime
    provider_version: str
    gpu: str
    compute_capability: str
    driver: str
    cuda: str

    def differences(self, other: PlanKey) -> list[str]:
        """Name what differs: "driver is 560.35, the plan's is 550.54"."""
        theirs = asdict(other)
        return [
            f"{name} is {_short(ours)}, the plan's is {_short(theirs[name])}"
            for name, ours in asdict(self).items()
            if ours != theirs[name]
        ]

    def sha256(self) -> str:
        """Hash of everything above: names the plan in the cache."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled network.

    data: the plan. convolutions: precision -> how many compute in it. layers: kind -> precision ->
    how many. build_s: seconds it took.
    """

    data: bytes
    convolutions: Mapping[str, int]
    layers: Mapping[str, Mapping[str, int]]
    build_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Passport:
    """Description of a plan: the JSON file beside it.

    model: name on the card. plan_sha256, plan_bytes: of the file beside it. convolutions, layers,
    build_s: see Compiled. built: time, ISO 8601. check: the comparison with the FP32 reference;
    None before it. origin: where a plan came from that was not built here.
    """

    model: str
    key: PlanKey
    plan_sha256: str
    plan_bytes: int
    convolutions: Mapping[str, int]
    layers: Mapping[str, Mapping[str, int]]
    built: str
    build_s: float = 0.0
    check: Mapping[str, Any] | None = None
    origin: str = ''
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """A compiled engine.

    data: what a TensorRT runtime deserialises, without any header. metadata: what Ultralytics wrote
    in front of it, empty where it did not. passport: None for a plan that came from elsewhere.
    """

    path: Path
    data: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)
    passport: Passport | None = None

    @property
    def provider(self) -> GpuRuntime:
        """The runtime that compiled it, by its passport or by how it begins."""
        if self.passport is not None:
            return self.passport.key.provider
        return 'tensorrt_rtx' if self.data[:4] == RTX_MAGIC else 'tensorrt'


@dataclass(frozen=True, slots=True)
class PlanPlace:
    """The place in the cache of the plan of one model that was made for `key`, there or not."""

    model: str
    key: PlanKey
    folder: Path = field(default_factory=lambda: cache_folder('engines'))

    @property
    def path(self) -> Path:
        return self.folder / f'{self._stem}-{self.key.sha256()[:12]}.plan'

    def __str__(self) -> str:
        key = self.key
        return f'{self.model} ({key.precision}, batch {key.batch}, {key.provider})'

    def load(self) -> EnginePlan:
        """The plan of this key, or of its compute capability, as of `--for`.

        Raises as load_plan.
        """
        anywhere = replace(self, key=replace(self.key, gpu='', driver='', cuda=''))
        for place in (self, anywhere):
            if place.path.exists() or passport_path(place.path).exists():
                return load_plan(place.path, place.key)
        raise PlanError(self._why_missing())

    def store(self, compiled: Compiled, **entries: Any) -> None:
        """Write plan and passport so that a reader finds both whole, or is told that not.

        entries: of the passport, without those that follow from what is known here.
        """
        path, data = self.path, compiled.data
        passport = Passport(
            model=self.model,
            key=self.key,
            plan_sha256=hashlib.sha256(data).hexdigest(),
            plan_bytes=len(data),
            convolutions=compiled.convolutions,
            layers=compiled.layers,
            built=_now(),
            build_s=round(compiled.build_s, 2),
            **entries,
        )
        with writing(path):
            passport_path(path).unlink(missing_ok=True)
            write_whole(path, data, private=True)
            write_json(passport_path(path), passport, private=True)
        path.with_suffix('.failed').unlink(missing_ok=True)

    def record_failure(self, reason: str) -> None:
        """Remove a plan that cannot be built or loaded, and note it: not every start tries it."""
        path = self.path
        with writing(path):
            write_json(
                path.with_suffix('.failed'), {'reason': reason, 'time': _now()}, private=True
            )
        passport_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def failure(self) -> str:
        """Tell when (ISO 8601) and why the last build of this plan failed; '' where it did not."""
        found = read_noted(self.path.with_suffix('.failed'))
        # Without it, the build is tried again.
        return f'{found["time"]}: {found["reason"]}' if {'time', 'reason'} <= set(found) else ''

    @contextmanager
    def lock(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
        """Let only one process build a plan; ends with the process, however that ends.

        on_wait: called when another process holds it. Yields whether one did, so that the plan may
        be there by now. Raises PlanError when there can be no lock file.
        """
        path = self.path.with_suffix('.lock')
        with ExitStack() as stack:
            with writing(path):
                self.folder.mkdir(0o755, parents=True, exist_ok=True)  # others may not write it
                if is_locked(path):
                    on_wait()
                waited = stack.enter_context(locked(path, wait=True))
            yield waited

    @property
    def _stem(self) -> str:
        key = self.key
        return f'{slug(self.model)}-{key.precision}-b{key.batch}-{key.provider}'

    def _why_missing(self) -> str:
        """Name what differs from the newest plan of the same network and place, if there is one."""
        files = self.folder.glob(f'{self._stem}-*.json')
        for file in sorted(files, key=lambda path: -path.stat().st_mtime):
            with contextlib.suppress(PlanError):
                differences = '; '.join(self.key.differences(read_passport(file).key))
                there = f'only {file.stem}: {differences}'
                return f'there is no engine of {self} for this machine, {there}.'
        return f'there is no engine of {self} in {self.folder}.'


def read_plan(path: Path) -> EnginePlan:
    """Read a plan from any source, with or without Ultralytics' header; no passport is looked for.

    Raises PlanError when the file is missing, empty, truncated, or no plan at all.
    """
    plan = _read(path)
    if plan.data[1:4] != b'trt':
        raise PlanError(
            f'{path} is no TensorRT plan: it begins with {plan.data[:4]!r}. '
            'Give a .engine or .plan file, or build one from the bundle.'
        )
    return plan


def load_plan(path: Path, key: PlanKey) -> EnginePlan:
    """Read a plan with its passport, whole and made for `key`; else raise PlanError.

    Raises InstallError where others can write either: a plan is code that TensorRT runs.
    """
    for file in (path, passport_path(path)):
        check_private(file)
    passport = read_passport(passport_path(path))
    plan = _read(path)
    if (found := len(plan.data)) != passport.plan_bytes:
        raise PlanError(
            f'{path} holds {found} bytes, its passport says {passport.plan_bytes}: '
            'it was cut off while it was written. Build it again.'
        )
    if hashlib.sha256(plan.data).hexdigest() != passport.plan_sha256:
        raise PlanError(f'{path} is damaged: its bytes are not those of its passport. Build again.')
    if differences := key.differences(passport.key):
        raise PlanError(f'{path} does not fit: {"; ".join(differences)}. Build it again.')
    return replace(plan, passport=passport)


def passport_path(plan: Path) -> Path:
    return plan.with_suffix('.json')


def read_passport(path: Path) -> Passport:
    """Read a passport. Raises PlanError when it is missing or not readable."""
    if not path.exists():
        raise PlanError(
            f'{path} is missing, so nobody knows what its plan was built for. Build it again.'
        )
    causes = (OSError, ValueError, TypeError, KeyError)
    what, advice = f'{path} is not readable as a passport', 'Build the engine again.'
    with told_as(PlanError, what, *causes, advice=advice):
        raw = read_json(path)
        if raw['schema'] != SCHEMA:
            raise ValueError(f'its schema is {raw["schema"]}, this version reads {SCHEMA}')
        return Passport(**{**raw, 'key': PlanKey(**raw['key'])})


def record_check(plan: Path, check: Mapping[str, Any]) -> None:
    """Write the comparison with the reference into the passport of `plan`."""
    passport = replace(read_passport(passport_path(plan)), check=dict(check))
    with writing(plan):
        write_json(passport_path(plan), passport, private=True)


def writing(path: Path) -> AbstractContextManager[None]:
    """Turn what fails inside of its `with` into a PlanError about writing `path`."""
    advice = 'Make room, or set XDG_CACHE_HOME to a folder that can be written.'
    return told_as(PlanError, f'{path} cannot be written', advice=advice)


def _read(path: Path) -> EnginePlan:
    with told_as(PlanError, f'{path} cannot be read', advice='Build the engine again.'):
        content = path.read_bytes()
    # Ultralytics writes its metadata's length (4 bytes, little-endian), JSON, plan.
    length = int.from_bytes(content[:4], 'little')
    header, data, metadata = content[4 : 4 + length], content, {}
    if header[:1] == b'{':
        what = f'{path} begins like an engine of Ultralytics, but was cut off or damaged'
        with told_as(PlanError, what, ValueError, advice='Export it again.'):
            metadata = dict(parse_json(header.decode()))
        data = content[4 + length :]
    if len(data) < 64:
        raise PlanError(f'{path} holds {len(data)} bytes of plan: it was cut off. Build it again.')
    if data[:4] == RTX_MAGIC:
        whole = int.from_bytes(data[16:24], 'little')  # seen in plans of 1.7.1
        if whole > len(data):
            raise PlanError(
                f'{path} holds {len(data)} of the {whole} bytes of its plan: it was cut off. '
                'Build it again.'
            )
    return EnginePlan(path, data, metadata)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')


def _short(value: object) -> str:
    text = str(value) or 'not known'
    return f'{text[:12]}...' if re.fullmatch(r'[0-9a-f]{64}', text) else text
