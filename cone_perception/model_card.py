"""The model card: a JSON file beside the networks that says what they are.

A bundle is a folder with `card.json` and the network files it lists. Nothing is loaded that the
card does not list, and nothing whose hash differs from the card's. So a network is one file:
weights in a second one have no hash on the card.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cone_perception.classes import ClassCalibration, check_class_names, scores_of
from cone_perception.errors import ModelError, told_as
from cone_perception.files import from_json, open_ordinary, read_json, to_json
from cone_perception.types import (
    Arithmetic,
    Detections,
    Encoding,
    Float32,
    OutputLayout,
    Precision,
    ViewName,
    Views,
    ViewsChoice,
)

CARD_FILE = 'card.json'

TENSOR: Mapping[int, Any] = {}
SPARSE = {1: TENSOR, 2: TENSOR}
GRAPH: dict[int, Any] = {5: TENSOR, 15: SPARSE}
ATTRIBUTE = {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE}
NODE = {5: ATTRIBUTE}
GRAPH[1] = NODE
MODEL = {7: GRAPH, 20: {1: GRAPH, 2: GRAPH}, 25: {7: NODE, 11: ATTRIBUTE}}
"""Field -> message in it, of those messages of onnx.proto that lead to a TensorProto."""

GIT_LFS = b'version https://git-lfs'


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """One network of a bundle. file: name in its folder. sha256: lower-case hex. batch: from 1."""

    file: str
    sha256: str
    precision: Precision
    encoding: Encoding
    batch: int = 1

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ValueError(f'file must be a plain name inside the bundle, got {self.file!r}')
        if self.batch < 1:
            raise ValueError(f'batch must be a whole number from 1, got {self.batch!r}')

    def kind(self, arithmetic: Arithmetic = 'float32') -> str:
        """Key of its figures in the card's gate: int8-uint8, fp16-float-bfloat16, ..."""
        usual = f'{self.precision}-{self.encoding}'
        return usual if arithmetic == 'float32' else f'{usual}-{arithmetic}'


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Preparation of a picture for the network, see preprocess.py.

    pad_value: grey of the border, 0..255. colour_order: of the network's three input planes.
    scale: factor from 0..255 to the network's input.
    """

    resize: Literal['letterbox'] = 'letterbox'
    pad_value: Literal[114] = 114
    colour_order: Literal['rgb', 'bgr'] = 'rgb'
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        if not math.isclose(self.scale, 1 / 255, rel_tol=1e-6):
            raise ValueError(f'scale must be 1/255, got {self.scale!r}')


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Description of a model: its networks, its classes, how it was made and judged.

    class_names: in the order of the network's class indices. height_px, width_px: its input.
    thresholds: least score per class name, 0..1; one for every class. views: which the network is
    meant to see. view_thresholds: view -> class name -> least score there, where it is another.
    nms_iou: 0..1, boxes of one class that overlap more are one cone (layout anchors only).
    class_calibration: makes probabilities of scores; null: there are none but the scores.
    networks: at least one. other_files: name -> sha256 of the rest of the bundle. licence: of the
    weights, an SPDX identifier. Free JSON: training (how it was made), metrics (what was measured,
    on what), calibration (pictures that set INT8's scales), gate (loss against FP32, see verdict).
    """

    name: str
    class_names: tuple[str, ...]
    height_px: int
    width_px: int
    output_layout: OutputLayout
    thresholds: Mapping[str, float]
    networks: tuple[NetworkFile, ...]
    licence: str
    nms_iou: float = 0.6
    views: Views = 'whole'
    view_thresholds: Mapping[ViewName, Mapping[str, float]] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_calibration: ClassCalibration | None = None
    other_files: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    schema: Literal[1] = 1

    def chosen_views(self, choice: ViewsChoice) -> Views:
        """Return the choice, or with auto the card's own."""
        return self.views if choice == 'auto' else choice

    def __post_init__(self) -> None:
        if not self.name or not self.licence:
            raise ValueError('name and licence must be texts that are not empty')
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f'class_names must be distinct names, got {list(self.class_names)}')
        check_class_names(self.class_names)
        for side in ('height_px', 'width_px'):
            length = getattr(self, side)
            if length < 32 or length % 32:
                raise ValueError(f'{side} must be a positive multiple of 32, got {length!r}')
        if set(self.thresholds) != set(self.class_names):
            raise ValueError(
                f'thresholds must name each class once, got {sorted(self.thresholds)} '
                f'for {sorted(self.class_names)}'
            )
        least = [*self.thresholds.items(), ('nms_iou', self.nms_iou)]
        for view, thresholds in self.view_thresholds.items():
            if unknown := set(thresholds) - set(self.class_names):
                raise ValueError(f'view_thresholds of {view} name {sorted(unknown)}, no class')
            least += thresholds.items()
        for name, value in least:
            if not 0 <= value <= 1:
                raise ValueError(f'threshold of {name} must lie in 0..1, got {value!r}')
        if not self.networks:
            raise ValueError('networks must list at least one file')
        figures = self.gate.get('figures', {})
        if not (isinstance(figures, dict) and all(isinstance(f, dict) for f in figures.values())):
            raise ValueError('figures of gate must be an object of objects')

    def probabilities(self, found: Detections) -> Float32:
        """(N, classes) float32: how likely each detection is a cone of each class; the rest: none.

        The network's scores as they are where the card has no class_calibration.
        """
        count = len(self.class_names)
        if self.class_calibration is None:
            return scores_of(found, count)
        return self.class_calibration.probabilities(found, count)

    @property
    def verdict(self) -> Literal['passed', 'FAILED', 'not judged']:
        """Outcome of the gate: are the quantised networks as good as FP32, within the limits?

        A gate of other views than the card's, whole where it names none, judges nothing.
        """
        if 'passed' not in self.gate or self.gate.get('views', 'whole') != self.views:
            return 'not judged'
        return 'passed' if self.gate['passed'] is True else 'FAILED'

    def passed_gate(self, network: NetworkFile, arithmetic: Arithmetic = 'float32') -> bool:
        """True where this network may be chosen by its speed; FP32 always may."""
        if network.precision == 'fp32' and arithmetic == 'float32':
            return True
        if self.verdict == 'not judged':
            return False
        found = self.gate.get('figures', {}).get(network.kind(arithmetic), {})
        return found.get('passed') is True

    def failed_gate(self, network: NetworkFile, arithmetic: Arithmetic = 'float32') -> bool:
        """True where the gate judged the bundle, and this network did not pass."""
        return self.verdict != 'not judged' and not self.passed_gate(network, arithmetic)

    @property
    def int8_convolutions(self) -> int:
        """Convolutions that compute in INT8, by the gate; at least 1, whatever it says."""
        stated = self.gate.get('int8_convolutions') or [1]
        return max(1, int(stated[0]))

    def to_json(self) -> str:
        """The card as the text of `card.json`."""
        return to_json(self, indent=2) + '\n'


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model card and the folder that it lies in."""

    folder: Path
    card: ModelCard

    def network(self, precision: Precision, encoding: Encoding, batch: int = 1) -> NetworkFile:
        """The card's network of this kind. Raises ModelError when it lists none."""
        for candidate in self.card.networks:
            kind = (candidate.precision, candidate.encoding, candidate.batch)
            if kind == (precision, encoding, batch):
                return candidate
        listed = ', '.join(
            f'{n.file} ({n.precision}, {n.encoding}, batch {n.batch})' for n in self.card.networks
        )
        raise ModelError(
            f'{self.folder / CARD_FILE} lists no {precision} network with {encoding} encoding and '
            f'batch {batch}, only {listed}. Export the model with it.'
        )

    def checked_path(self, network: NetworkFile) -> Path:
        """Path of the network's file, after comparing its hash with the card's.

        Raises ModelError when the file is missing, another one than the card describes, or not all
        of the network.
        """
        path = self.folder / network.file
        if not path.is_file():
            raise ModelError(
                f'{path} is missing, but {CARD_FILE} lists it. '
                'Copy the whole bundle, or export again.'
            )
        found = file_sha256(path)
        if found != network.sha256:
            raise ModelError(
                f'{path} has sha256 {found[:12]}..., but its card says {network.sha256[:12]}... '
                'It is damaged, or file and card come from different exports: copy or export again.'
            )
        check_network_file(path)
        return path


def shipped_bundle() -> Path:
    """Folder of the demo model that comes with this package."""
    return Path(__file__).parent / 'models' / 'demo'


def read_bundle(path: Path | str | None = None) -> Bundle:
    """Read the card at `path`, a bundle's folder or its card.json; empty takes the shipped model.

    Raises ModelError naming the card and the entry when it is missing or wrong.
    """
    path = Path(path).expanduser() if path else shipped_bundle()
    file = path / CARD_FILE if path.is_dir() else path
    if not file.exists():
        raise ModelError(
            f'{file} does not exist. A model is a folder with {CARD_FILE} and its networks: '
            'give that folder.'
        )
    if file.suffix != '.json':
        card = file.parent / CARD_FILE
        hint = f'pass {card}' if card.is_file() else 'export the model, which writes one'
        raise ModelError(
            f'{file} is not a model card, and a network without a card is not run: {hint}.'
        )
    what, advice = f'{file} is not a valid model card', 'Export the model again.'
    with told_as(ModelError, what, OSError, ValueError, TypeError, KeyError, advice=advice):
        raw = read_json(file)
        return Bundle(file.parent, from_json(ModelCard, raw, 'the card'))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    digest = hashlib.sha256()
    with open_ordinary(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_network_file(path: Path) -> None:
    """Raise ModelError where it is no ONNX file, or some of its weights lie elsewhere."""
    check_kind(path, '.onnx')
    with told_as(ModelError, f'{path} cannot be read'), open_ordinary(path) as file:
        content = file.read()
    try:
        outside = _has_outside(memoryview(content), MODEL)
        whole = any(number == 7 for number, _ in _fields(memoryview(content)))
    except (IndexError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise ModelError(f'{path} is damaged, or no ONNX file: copy or export it again.')
    if outside:
        raise ModelError(
            f'{path} keeps weights in another file, of which no card has the hash. Write it as one '
            'file: onnx.save(onnx.load(PATH), PATH).'
        )


def check_kind(path: Path, suffix: str) -> None:
    """Raise ModelError for another kind of file, and for a pointer that Git LFS left there."""
    if path.suffix.lower() != suffix:
        raise ModelError(f'{path} is no {suffix} file: nothing else is loaded.')
    with told_as(ModelError, f'{path} cannot be read'), open_ordinary(path) as file:
        if file.read(len(GIT_LFS)) == GIT_LFS:
            raise ModelError(f'{path} is a pointer of Git LFS, not the file: run `git lfs pull`.')


def _has_outside(message: memoryview, inside: Mapping[int, Any]) -> bool:
    """Tell whether a TensorProto in a message has external_data (13) or data_location 1 (14)."""
    for number, value in _fields(message):
        if inside is TENSOR:
            if number == 13 or (number == 14 and value == 1):
                return True
        elif (
            number in inside
            and isinstance(value, memoryview)
            and _has_outside(value, inside[number])
        ):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field. Raises IndexError or ValueError: it is cut off."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f'wire type {kind}')
        if at + size > len(message):
            raise ValueError('cut off')
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError('no varint')
