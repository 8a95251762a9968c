"""`cone-perception detect`: cones in pictures, a video or a bag, without ROS."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from cone_perception.arguments import add_fields
from cone_perception.engines.events import print_event, print_warning
from cone_perception.engines.open import place_network
from cone_perception.errors import (
    EngineError,
    EngineLostError,
    ModelError,
    OutputError,
    told_as,
)
from cone_perception.files import claim_folder, write_json
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, read_bundle
from cone_perception.pictures.draw import Film, draw_cones, encode_picture
from cone_perception.pictures.sources import Source, Unreadable, open_source
from cone_perception.pipeline import STATIONS, ConeDetector, stations_ms, warm_detector
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame, ViewName
from cone_perception.views import Horizon, band_edges, bands_of

SETTINGS = (
    *('model', 'device', 'engine', 'precision', 'build', 'threads', 'streams'),
    *('views', 'horizon', 'far_every'),
    *('thresholds', 'classes', 'region', 'min_height_px', 'max_height_px'),
)
"""The detector's settings that mean something without ROS."""

FILES = ('detections.jsonl', 'detections.mp4', 'pictures', 'summary.json')
"""What the command writes."""

VIEW_NAMES: tuple[ViewName, ...] = get_args(ViewName)

Found = tuple[list[Detections], dict[str, int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_search(parser, 'detections')


def add_search(
    parser: argparse.ArgumentParser, folder: str, settings: Sequence[str] = SETTINGS
) -> None:
    """Declare a source, the settings of its search, and --out: by default in `folder`."""
    parser.add_argument('source', type=Path, help='picture, folder of pictures, video, or rosbag2')
    parser.add_argument(
        '--out', type=Path, help=f'folder for the results (default: {folder}/ and the source)'
    )
    parser.add_argument('--topic', help='image topic of a bag with several')
    add_fields(parser, DetectorSettings, settings)
    parser.set_defaults(precision=None)  # not told: the network that `evaluate` takes


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 when every picture was answered, 1 when one failed."""
    settings, bundle = read_search(args)
    source = open_source(args.source, args.topic)
    out = args.out or Path('detections') / args.source.resolve().stem
    with (
        open_detector(bundle, settings, settings.streams, bool(args.precision)) as detector,
        told_as(OutputError, f'{out} cannot be written'),
    ):
        claim_folder(out, FILES[0], FILES, args.source)
        tally = detect_source(source, detector, settings, out)
    print(tally.text(out))
    return 1 if tally.failures else 0


def read_search(
    args: argparse.Namespace, names: Sequence[str] = SETTINGS
) -> tuple[DetectorSettings, Bundle]:
    """Read what `add_search` declared. Raises SettingsError and ModelError."""
    values = {name: getattr(args, name) for name in names}
    settings = DetectorSettings.from_mapping({**values, 'precision': args.precision or 'best'})
    bundle = read_bundle(settings.model)
    settings.filters.check_classes(bundle.card)
    return settings, bundle


def open_detector(
    bundle: Bundle, settings: DetectorSettings, streams: int = 1, measure: bool = True
) -> ConeDetector:
    """Open a warm detector as `place_network` does; what is to be told goes to stderr."""
    placed = place_network(bundle, settings, print_event, streams=streams, measure=measure)
    for warning in placed.warnings:
        print_warning(warning)
    return warm_detector(bundle.card, placed.engine, settings.views)


@dataclass(slots=True)
class Tally:
    """Counts what came of a source.

    answered: pictures with a line in detections.jsonl. failures: those without. cones: number per
    class name. views: number of pictures that the network saw so. wall_s: drawing and writing
    included. spent_ms: per station, of all answered.
    """

    answered: int = 0
    failures: list[Unreadable] = field(default_factory=list)
    cones: Counter[str] = field(default_factory=Counter)
    views: Counter[ViewName] = field(default_factory=Counter)
    wall_s: float = 0.0
    spent_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STATIONS, 0.0))
    interrupted: bool = False

    def fail(self, failure: Unreadable) -> None:
        """Count a picture without an answer, and name it."""
        self.failures.append(failure)
        tell_failure(failure)

    @property
    def mean_ms(self) -> dict[str, float]:
        """Station -> milliseconds per picture answered."""
        return {name: spent / max(self.answered, 1) for name, spent in self.spent_ms.items()}

    def text(self, out: Path) -> str:
        """Write some lines for a person."""
        cones = ', '.join(f'{count} {name}' for name, count in sorted(self.cones.items()))
        lines = [
            f'{self.answered} pictures answered, {len(self.failures)} failed, '
            f'{self.answered / max(self.wall_s, 1e-9):.1f} pictures/s',
            f'cones: {cones or "none"}',
        ]
        if self.answered:
            seen = (f'{self.views[name]} {name}' for name in VIEW_NAMES if self.views[name])
            lines.append(f'pictures per view: {", ".join(seen)}')
            each = (f'{station} {ms:.1f} ms' for station, ms in self.mean_ms.items())
            lines.append(f'per picture: {", ".join(each)}')
        lines += [f'failed: {failure.source}: {failure.reason}' for failure in self.failures[:20]]
        if len(self.failures) > 20:
            lines.append(f'failed: {len(self.failures) - 20} more, all named in summary.json')
        lines.append(f'results: {out}')
        return '\n'.join(lines)


def tell_failure(failure: Unreadable) -> None:
    """Say on stderr which picture has no answer, beside a progress bar."""
    tqdm.write(f'failed: {failure.source}: {failure.reason}', file=sys.stderr)


def detect_source(
    source: Source, detector: ConeDetector, settings: DetectorSettings, out: Path
) -> Tally:
    """Find the cones in each picture and write them to `out`, picture by picture.

    Writes detections.jsonl, the annotated pictures or film, and summary.json; they are complete
    and valid for what was done, also when it is interrupted. Raises SourceError and OutputError.
    """
    pictures = out / 'pictures'
    (pictures if source.kind == 'pictures' else out).mkdir(parents=True, exist_ok=True)
    film = Film(out / 'detections.mp4', source.rate_hz or 15.0)
    tally, names = Tally(), detector.card.class_names
    started = time.monotonic()
    lines = (out / 'detections.jsonl').open('w', encoding='utf-8', buffering=1)
    try:
        for picture in search(source, detector, settings.filters, Horizon.of(settings)):
            if isinstance(picture, Unreadable):
                tally.fail(picture)
                continue
            frame, found, moments_ns = picture
            lines.write(json.dumps(detection_record(frame, found, names)) + '\n')
            views = detector.views_of(frame.height_px, frame.width_px, found.band_px)
            drawn = draw_cones(frame.bgr, found, names, bands_px=band_edges(views))
            if source.kind == 'pictures':
                suffix = Path(frame.source).suffix
                (pictures / frame.source).write_bytes(encode_picture(suffix, drawn))
            else:
                film.add(drawn)
            tally.answered += 1
            tally.views.update({view.name for view in views})
            tally.cones.update(names[class_id] for class_id in found.class_id)
            for station, spent_ms in stations_ms(moments_ns).items():
                tally.spent_ms[station] += spent_ms
    except KeyboardInterrupt:
        tally.interrupted = True
        raise
    finally:
        lines.close()
        film.close()
        tally.wall_s = time.monotonic() - started
        write_summary(out / 'summary.json', source, detector, tally)
    return tally


def search(
    source: Source, detector: ConeDetector, filters: Filters, horizon: Horizon
) -> Iterator[Unreadable | tuple[Frame, Detections, dict[str, int]]]:
    """Yield each picture in its order, its cones and the moments of its search; shows a bar.

    horizon: of a video or a bag; pictures have no past.
    Raises EngineLostError and SourceError: no later picture can be had.
    """
    of_film = source.kind != 'pictures'
    horizons, at_once = (horizon,) * of_film, detector.at_once
    if of_film and bands_of(detector.views):
        at_once = 1  # each band follows all answers before it: a film has the same boxes each time
    look = partial(detector.detect, filters=filters, horizons=horizons)
    searched = _searched(source.frames, look, at_once)
    for picture in tqdm(searched, total=source.count, unit='picture', file=sys.stderr):
        if isinstance(picture, Unreadable):
            yield picture
            continue
        frame, answer = picture
        try:
            (found,), moments_ns = answer.result()
        except EngineLostError:
            raise
        except (EngineError, ModelError) as error:
            yield Unreadable(frame.source, str(error))
            continue
        yield frame, found, moments_ns


def _searched(
    pictures: Iterable[Frame | Unreadable], detect: Callable[[list[Frame]], Found], at_once: int
) -> Iterator[Unreadable | tuple[Frame, Future[Found]]]:
    """Yield each picture in its order, with its answer to come: the next are searched meanwhile."""
    begun: deque[Unreadable | tuple[Frame, Future[Found]]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for picture in pictures:
                if isinstance(picture, Unreadable):
                    begun.append(picture)
                else:
                    begun.append((picture, pool.submit(detect, [picture])))
                if len(begun) > at_once:
                    yield begun.popleft()
        except (Exception, KeyboardInterrupt):  # what was read before has its answer
            yield from begun
            raise
        yield from begun


def detection_record(
    frame: Frame, found: Detections, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Make a picture's line of detections.jsonl; boxes: left, top, right, bottom in its pixels.

    band_px: row around which the second look lay; null where there was none.
    """
    return {
        'source': frame.source,
        'stamp_ns': frame.stamp_ns,
        'width_px': frame.width_px,
        'height_px': frame.height_px,
        'band_px': found.band_px,
        'detections': [
            {
                'class': class_names[class_id],
                'score': round(float(score), 4),
                'xyxy_px': [round(float(side), 2) for side in box],
            }
            for box, score, class_id in zip(found.xyxy_px, found.score, found.class_id, strict=True)
        ],
    }


def write_summary(path: Path, source: Source, detector: ConeDetector, tally: Tally) -> None:
    """Write what was done, with what, and what failed, as JSON."""
    summary = {
        'kind': source.kind,
        'pictures': source.count,
        'answered': tally.answered,
        'failed': len(tally.failures),
        'failures': tally.failures,
        'interrupted': tally.interrupted,
        'cones': dict(sorted(tally.cones.items())),
        'pictures_per_view': dict(sorted(tally.views.items())),
        'wall_s': round(tally.wall_s, 3),
        'mean_ms': {station: round(ms, 3) for station, ms in tally.mean_ms.items()},
        **network_record(detector),
    }
    write_json(path, summary)


def network_record(detector: ConeDetector) -> dict[str, Any]:
    """Say for a summary which network searched, what ran it, and what it was to see."""
    info = detector.engine.info
    return {
        'model': detector.card.name,
        'network_sha256': info.network_sha256,
        'engine': info.runtime,
        'device': info.device,
        'precision': info.precision,
        'arithmetic': info.arithmetic,
        'views': detector.views,
    }
