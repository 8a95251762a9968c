"""Preprocess, engine and decode joined: pictures in, cones out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from queue import SimpleQueue
from typing import cast

import numpy as np

from cone_perception.engines import Engine, FrameEngine, lone_of
from cone_perception.engines.decode import decode
from cone_perception.filters import Filters
from cone_perception.images import bgr_of
from cone_perception.model_card import ModelCard
from cone_perception.preprocess import PAD_VALUE, View, whole_view
from cone_perception.types import (
    CameraPicture,
    Detections,
    Float32,
    Frame,
    UInt8,
    ViewName,
    ViewsChoice,
)
from cone_perception.views import (
    BANDS,
    NOWHERE,
    Horizon,
    Looks,
    above,
    bands_of,
    far_row,
    merge,
    views_around,
    views_of,
    views_per_picture,
)

STATIONS = ('preprocess', 'inference', 'decode')


def stations_ms(
    moments_ns: Mapping[str, int], stations: Sequence[str] = STATIONS
) -> dict[str, float]:
    """Station -> milliseconds spent there, of the moments before, between and after them."""
    between = zip(stations, pairwise(moments_ns.values()), strict=True)
    return {station: (after - before) / 1e6 for station, (before, after) in between}


@dataclass(slots=True)
class Search:
    """One frame, the row of its band where that is known, and what each view of it showed."""

    frame: Frame | CameraPicture
    row_px: float | None
    looks: Looks = field(default_factory=list)

    @property
    def size_px(self) -> tuple[int, int]:
        """Height, width."""
        return self.frame.height_px, self.frame.width_px

    @property
    def band_px(self) -> float | None:
        """Row around which the second look lay; None where there was none."""
        return self.row_px if any(view.name in BANDS for view, _ in self.looks) else None

    def cones(self, thresholds: Mapping[ViewName, Float32] | None = None) -> Detections:
        """Merge what all views showed, or what of it reaches these least scores."""
        looks = self.looks if thresholds is None else above(self.looks, thresholds)
        return replace(merge(looks), band_px=self.band_px)


class ConeDetector(contextlib.AbstractContextManager['ConeDetector']):
    """Finds cones with one engine. Any thread may call `detect`; the engine is used in turns.

    views: which parts of a picture the network sees; auto takes what the model card says.
    """

    def __init__(self, card: ModelCard, engine: Engine, views: ViewsChoice = 'auto') -> None:
        self.card = card
        self.engine = engine
        self.views = card.chosen_views(views)
        # Asked once: a protocol's isinstance looks at every member.
        self._frame_engine = engine if isinstance(engine, FrameEngine) else None
        self._lone = lone_of(engine)
        self.batch = engine.info.input_shape[0]
        self._network = (card.height_px, card.width_px)
        # On a GPU the next picture goes up meanwhile.
        self._runs = engine.info.at_once if self._frame_engine is None else 2
        shape = (self.batch, *self._network, 3)
        self._inputs: SimpleQueue[UInt8] = SimpleQueue()  # as many as may be in work
        for _ in range(self._runs):
            self._inputs.put(np.full(shape, PAD_VALUE, np.uint8))
        self._beside = ThreadPoolExecutor(self._runs, 'look')
        self._sure = Filters().thresholds_by_view(card)

    @property
    def encodings(self) -> frozenset[str]:
        """Encodings of sensor_msgs/Image that the engine reads as they were sent; none on a CPU."""
        return self._frame_engine.encodings if self._frame_engine is not None else frozenset()

    @property
    def frames_per_run(self) -> int:
        """Number of frames that one run of the network looks at; 1 may take several runs."""
        return max(1, self.batch // views_per_picture(self.views))

    @property
    def at_once(self) -> int:
        """Number of batches of frames that fill the engine."""
        if self._frame_engine is not None:
            return self._runs
        return max(1, self._runs // -(-views_per_picture(self.views) // self.batch))

    def warm_up(self) -> None:
        """Run on grey, every stream once, so that no real frame is slower than the others.

        Once alone before: an engine may hold back others until its first run is done.
        """
        grey = Frame(np.full((*self._network, 3), PAD_VALUE, np.uint8))
        shown = [(self._readable(grey), whole_view(*self._network, self._network))] * self.batch
        least = self._sure['whole']
        self._run(shown, least, alone=True)
        if self._runs > 1:
            list(self._beside.map(lambda _: self._run(shown, least), range(self._runs)))

    def detect(
        self,
        frames: Sequence[Frame | CameraPicture],
        filters: Filters,
        horizons: Sequence[Horizon] = (),
    ) -> tuple[list[Detections], dict[str, int]]:
        """Find the cones in up to `batch` frames, in source pixels, best score first.

        horizons: of the frames' cameras; they say which frames get a second look, and follow what
        is found there. Without one, or where it knows nothing yet, the band lies where the first
        look shows far cones: the network runs twice, one after the other.
        Beside them the moments at which work began, and the batch left each station, in nanoseconds
        of the monotonic clock: the first view left preprocessing, the last one inference. An engine
        that takes the camera's own bytes does all three: it counts as inference.
        Raises EngineError, ModelError or, for a camera's picture that cannot be read, ImageError;
        then there is no answer for any of the frames.
        """
        started = time.monotonic_ns()
        once = {index for index, horizon in enumerate(horizons) if not horizon.takes_turn()}
        rows = [
            None if index in once else horizon.row_px(frame.height_px)
            for index, (horizon, frame) in enumerate(zip(horizons, frames, strict=False))
        ]
        searches, prepared, inferred = self.look(frames, filters, rows, once)
        found = []
        for index, (frame, search) in enumerate(zip(frames, searches, strict=True)):
            cones = search.cones()
            if index < len(horizons) and index not in once:
                row_px = self._far_row(search, cones, filters)
                horizons[index].follow(row_px, frame.height_px)
            found.append(filters.apply(cones, self.card, frame.width_px, frame.height_px))
        moments_ns = {'started_ns': started, 'prepared_ns': prepared, 'inferred_ns': inferred}
        return found, {**moments_ns, 'decoded_ns': time.monotonic_ns()}

    def look(
        self,
        frames: Sequence[Frame | CameraPicture],
        filters: Filters,
        rows_px: Sequence[float | None] = (),
        once: Collection[int] = (),
    ) -> tuple[list[Search], int, int]:
        """Look at up to `batch` frames in every view, and keep what each of them shows.

        rows_px: where the bands lie; None, or no row: where the first look shows far cones. once:
        indices of the frames that get no second look; their row is None. Only the thresholds of
        the filters are heeded, and the region for where a band lies. Beside the frames' searches
        the moments at which the first view was prepared, and the last one left the network. Raises
        as `detect`.
        """
        if not 1 <= len(frames) <= self.batch:
            raise ValueError(f'a batch takes 1 to {self.batch} frames, got {len(frames)}')
        searches = [
            Search(self._readable(frame), row_px) for frame, row_px in zip_longest(frames, rows_px)
        ]
        wanted = [(s, view) for s in searches for view in self.views_of(*s.size_px, s.row_px)]
        prepared, inferred = self._look(wanted, filters)
        twice = (s for index, s in enumerate(searches) if index not in once)
        if bands_of(self.views) and (unknown := [s for s in twice if s.row_px is None]):
            for search in unknown:
                row_px = self._far_row(search, search.cones(self._sure), filters)
                search.row_px = NOWHERE * search.size_px[0] if row_px is None else row_px
            again = [(s, view) for s in unknown for view in self._bands(*s.size_px, s.row_px)]
            if again:  # a small picture has none
                _, inferred = self._look(again, filters)
        return searches, prepared, inferred

    def _readable(self, frame: Frame | CameraPicture) -> Frame | CameraPicture:
        """Return the picture as the engine takes it. Raises ImageError."""
        if self._frame_engine is None:
            return frame if isinstance(frame, Frame) else Frame(bgr_of(frame))
        if isinstance(frame, CameraPicture) and frame.encoding in self.encodings:
            return frame
        return CameraPicture.of_bgr(bgr_of(frame))

    def views_of(self, height_px: int, width_px: int, band_px: float | None) -> list[View]:
        """Views of a picture of this size; those around the row `band_px` where it is given."""
        return views_of(height_px, width_px, self._network, self.views, band_px)

    def _bands(self, height_px: int, width_px: int, row_px: float | None) -> list[View]:
        if row_px is None:
            return []
        return views_around(row_px, height_px, width_px, self._network, self.views)

    def _far_row(self, search: Search, cones: Detections, filters: Filters) -> float | None:
        """Row of the far cones in the region, of those that the card's thresholds let pass."""
        sure = cones[cones.counts].above(self._sure['whole'])
        height_px, width_px = search.size_px
        inside = filters.inside(sure.xyxy_px, width_px, height_px)
        return far_row(sure[inside], search.looks[0][0].patches[0].scale)

    def _look(self, wanted: Sequence[tuple[Search, View]], filters: Filters) -> tuple[int, int]:
        """Look at views, as many at once as the engine can, and keep what they show.

        Returns when the first was prepared and the last left the network.
        """
        counting = thresholds = filters.thresholds_by_view(self.card)
        if filters.lower is not None:
            thresholds = {view: filters.lower(own) for view, own in counting.items()}
        least: Float32 = np.min([thresholds[view.name] for _, view in wanted], axis=0)
        shown = [(search.frame, view) for search, view in wanted]
        chunks = [shown[i : i + self.batch] for i in range(0, len(shown), self.batch)]
        others = [self._beside.submit(self._run, chunk, least) for chunk in chunks[1:]]
        try:
            runs = [self._run(chunks[0], least, alone=not others)]
        finally:
            wait(others)  # they use the frames
        runs += [run.result() for run in others]
        in_network = [found for run in runs for found in run[0]]
        for (search, view), found in zip(wanted, in_network, strict=True):
            cones = found.above(thresholds[view.name])
            if filters.lower is not None:
                cones = replace(cones, least=counting[view.name][cones.class_id])
            search.looks.append((view, cones))
        return min(run[1] for run in runs), max(run[2] for run in runs)

    def _run(
        self,
        shown: Sequence[tuple[Frame | CameraPicture, View]],
        thresholds: Float32,
        alone: bool = False,
    ) -> tuple[list[Detections], int, int]:
        """Run the network once: boxes in network pixels, when it was prepared, when it ended.

        alone: no other view of these frames is looked at meanwhile.
        """
        frames, views = [frame for frame, _ in shown], [view for _, view in shown]
        nms_iou = self.card.nms_iou
        with self._turn() as batch:
            if self._frame_engine is not None:
                prepared = time.monotonic_ns()
                pictures = cast('list[CameraPicture]', frames)
                found = self._frame_engine.detect(pictures, views, thresholds, nms_iou)
                return found, prepared, time.monotonic_ns()
            for (frame, view), picture in zip(shown, batch, strict=False):
                view.apply(bgr_of(frame), picture)
            prepared = time.monotonic_ns()
            alone = alone and self._inputs.qsize() == self._runs - 1  # and no other frame
            outputs = (self._lone if alone else self.engine).run(batch)
        inferred = time.monotonic_ns()
        layout = self.card.output_layout
        decoded = [decode(out, layout, thresholds, nms_iou) for out in outputs[: len(shown)]]
        return decoded, prepared, inferred

    @contextlib.contextmanager
    def _turn(self) -> Iterator[UInt8]:
        """Wait for the engine; the network's input to fill, which is the caller's for a run."""
        batch = self._inputs.get()
        try:
            yield batch
        finally:
            self._inputs.put(batch)

    def close(self) -> None:
        self._beside.shutdown()
        self.engine.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def warm_detector(card: ModelCard, engine: Engine, views: ViewsChoice = 'auto') -> ConeDetector:
    """Make a detector and warm it up; where that fails, the engine is closed."""
    detector = ConeDetector(card, engine, views)
    try:
        detector.warm_up()
    except BaseException:
        detector.close()
        raise
    return detector
