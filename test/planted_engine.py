"""`cone-perception node` with an engine that misbehaves as a GPU does, for tests without a GPU.

`planted_engine.py KIND ARGUMENT... node ...`; KIND is a class of this file.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np

from cone_perception import cli, errors
from cone_perception.engines import FrameEngine
from cone_perception.engines.decode import decode
from cone_perception.engines.open import PlacedEngine, open_engine
from cone_perception.images import to_bgr
from cone_perception.ros import loading
from cone_perception.types import Detections


class FailingEngine:
    """A real engine that raises `error` for a picture with a value of `brightness` or more."""

    def __init__(self, engine, error, brightness):
        self.info, self.close, self._run = engine.info, engine.close, engine.run
        self._error, self._brightness = getattr(errors, error), int(brightness)

    def run(self, pictures):
        if pictures.max() >= self._brightness:
            raise self._error('the GPU said so')
        return self._run(pictures)


class CameraEngine:
    """A real engine that takes the camera's own bytes, as the one on the GPU does."""

    encodings = frozenset({'bgr8', 'yuv422'})
    launches = 'none: this is a CPU'
    overflows = 3

    def __init__(self, engine):
        self.info, self.run, self.close = engine.info, engine.run, engine.close

    def detect(self, pictures, views, thresholds, nms_iou):
        (picture,) = pictures
        print(f'got {picture.encoding} of {picture.step} bytes a row', flush=True)
        letterboxed = np.full((1, 384, 640, 3), 114, np.uint8)
        views[0].apply(to_bgr(picture), letterboxed[0])
        return [decode(self.run(letterboxed)[0], 'end_to_end', thresholds, nms_iou)]


class TwoAtOnce:
    """Stands for a GPU: a picture's grey decides what happens. release: a file to wait for."""

    encodings = frozenset({'bgr8'})

    def __init__(self, engine, release):
        self.info, self.run, self.close = engine.info, engine.run, engine.close
        self._release = Path(release)
        self._second_is_through = threading.Event()
        self._lost = threading.Barrier(2)

    def detect(self, pictures, views, thresholds, nms_iou):
        grey = int(to_bgr(pictures[0])[0, 0, 0])
        print(f'in {grey}.', flush=True)
        if grey in (100, 102):  # the first one: waits for the second
            assert self._second_is_through.wait(20)
            self._second_is_through.clear()
        if grey in (101, 103):
            self._second_is_through.set()
        if grey in (102, 103):
            raise errors.EngineError(f'{grey} failed')
        while grey in (120, 121) and not self._release.exists():
            time.sleep(0.01)
        if grey == 130:
            self._lost.wait(20)
            raise errors.EngineLostError('the GPU said so')
        return [Detections.empty() for _ in pictures]


def place(bundle, settings, on_event, cancelled, streams):
    engine = globals()[kind](open_engine(bundle), *arguments)
    assert isinstance(engine, FrameEngine) == hasattr(engine, 'detect')
    return PlacedEngine(engine, Path('/cache/tiny.plan'))


if __name__ == '__main__':
    at = sys.argv.index('node')
    kind, *arguments = sys.argv[1:at]
    loading.place_network = place
    sys.exit(cli.main(sys.argv[at:]))
