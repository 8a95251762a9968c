"""The GPU engine: its logic on a GPU made of CPU memory, its imports and refusals on real ones."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from kernels_on_cpu import compile_kernels
from pycuda_on_cpu import HostDriver, LogicError
from pycuda_on_cpu import MemoryError as NoMemory
from tensorrt_machine import BuildPolicy, note_speeds, order_for, pretend_tensorrt
from test_plan_adoption import with_reference, write_engine
from tiny_network import CLASS_NAMES, paint, write_tiny_bundle

from cone_perception.engines import Engine, FrameEngine
from cone_perception.engines.cuda.engine import CudaEngine
from cone_perception.engines.cuda.request import FIRST_PICTURE
from cone_perception.engines.open import open_engine
from cone_perception.engines.tensorrt import engine as tensorrt
from cone_perception.engines.tensorrt import provide as adoption
from cone_perception.engines.tensorrt.fastest import fastest_order, read_choice
from cone_perception.engines.tensorrt.order import EngineOrder, make_orders
from cone_perception.engines.tensorrt.plans import Compiled
from cone_perception.engines.tensorrt.provide import adopt_plan, open_ordered
from cone_perception.errors import (
    EngineError,
    EngineLostError,
    GpuMemoryError,
    ImageError,
    ModelError,
    PlanError,
)
from cone_perception.files import cache_folder
from cone_perception.filters import Filters
from cone_perception.model_card import NetworkFile, read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.preprocess import View, whole_view
from cone_perception.types import CameraPicture, Detections, Frame, UInt8
from cone_perception.views import Horizon

HEIGHT, WIDTH = 96, 160


@dataclass
class OnnxNetwork:
    """A Network of slot.py that ONNX Runtime computes, between the memories of the GPU."""

    driver: HostDriver
    engine: Engine
    half_input: bool = False
    half_output: bool = False
    refuse: str = ''

    def __post_init__(self) -> None:
        self.input_shape = self.engine.info.input_shape
        self.output_shape = self.engine.info.output_shape

    def enqueue(self, stream: object, input_address: int, output_address: int) -> None:
        if self.refuse:
            raise EngineError(self.refuse)
        self.driver.queue(lambda: self._run(input_address, output_address))

    def _run(self, input_address: int, output_address: int) -> None:
        count = int(np.prod(self.input_shape))
        memory = (ctypes.c_float * count).from_address(input_address)
        planes = np.frombuffer(memory, np.float32).reshape(self.input_shape)
        output = self.engine._session.run(None, {'images': planes})[0]  # type: ignore[attr-defined]
        ctypes.memmove(output_address, np.ascontiguousarray(output).ctypes.data, output.nbytes)

    def close(self) -> None:
        self.driver.alive_in_context()


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return compile_kernels(tmp_path_factory.mktemp('kernels'), half=False)


@pytest.fixture(scope='module')
def bundles(tmp_path_factory):
    pytest.importorskip('onnxruntime')
    folder = tmp_path_factory.mktemp('bundles')
    return {
        (layout, batch): read_bundle(
            write_tiny_bundle(folder / f'{layout}{batch}', layout, batch, HEIGHT, WIDTH)
        )
        for layout in ('anchors', 'end_to_end')
        for batch in (1, 2, 4)
    }


@pytest.fixture
def driver(library, monkeypatch):
    driver = HostDriver(library)
    driver.put_in_place(monkeypatch)
    monkeypatch.setattr('cone_perception.engines.cuda.slot.ROOM_BYTES', 1000)
    return driver


Opener = Callable[..., CudaEngine]


@pytest.fixture
def open_cuda(driver, bundles):
    opened = contextlib.ExitStack()

    def open_one(
        layout: str = 'anchors', batch: int = 1, refuse: str = '', **options: object
    ) -> CudaEngine:
        bundle = bundles[layout, batch]
        engine = open_engine(bundle, 'onnxruntime', batch, threads=1)
        network = bundle.card.networks[0]
        preprocessing = bundle.card.preprocessing
        load = functools.partial(OnnxNetwork, driver, engine, refuse=refuse)
        found = CudaEngine(load, preprocessing, network, 'ONNX Runtime', **options)  # type: ignore[arg-type]
        opened.callback(found.close)
        return found

    with opened:
        yield open_one


def road(cones: int = 2, height: int = 200, width: int = 330) -> UInt8:
    bgr = np.full((height, width, 3), 114, np.uint8)
    kinds = ('blue_cone', 'yellow_cone', 'orange_cone')
    for index in range(cones):
        paint(bgr, kinds[index % 3], 60 + 66 * index, 66, 66, 66)
    return bgr


THRESHOLDS = np.full(len(CLASS_NAMES), 0.5, np.float32)


def detect(engine: CudaEngine, bgr: UInt8 | None = None) -> Detections:
    """Cones that the engine finds in a picture: that of a road with two cones, or this one."""
    picture = CameraPicture.of_bgr(road() if bgr is None else bgr)
    return engine.detect([picture], [whole(picture)], THRESHOLDS, 0.6)[0]


def whole(picture: CameraPicture) -> View:
    return whole_view(picture.height, picture.width, (HEIGHT, WIDTH))


# --- the way of a frame ---


@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('use_graph', [True, False])
def test_cones_are_those_of_the_cpu(open_cuda, bundles, layout, batch, use_graph):
    bundle = bundles[layout, batch]
    frames = [Frame(road(3)), Frame(np.ascontiguousarray(road(2)[::2, ::2]))][:batch]
    found = []
    for engine in (
        open_cuda(layout, batch, use_graph=use_graph),
        open_engine(bundle, 'onnxruntime', batch, 1),
    ):
        with ConeDetector(bundle.card, engine) as detector:
            detector.warm_up()
            found.append(detector.detect(frames, Filters())[0])
    for ours, theirs in zip(*found, strict=True):
        assert len(theirs)
        assert np.array_equal(ours.class_id, theirs.class_id)
        np.testing.assert_allclose(ours.xyxy_px, theirs.xyxy_px, atol=0.5)
        np.testing.assert_allclose(ours.score, theirs.score, atol=0.01)


@pytest.mark.parametrize('encoding', ['bgr8', 'uyvy'])
def test_views_of_a_frame_go_up_once_and_show_what_the_cpu_finds(
    open_cuda, bundles, driver, encoding
):
    bundle, bgr = bundles['anchors', 4], road(3, 201, 324)
    frame: Frame | CameraPicture = Frame(bgr)
    if encoding == 'uyvy':
        packed = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_UYVY)
        frame = CameraPicture(packed.reshape(-1), encoding, 324, 201, 648)
    found = []
    for engine in (open_cuda('anchors', 4), open_engine(bundle, 'onnxruntime', 4, 1)):
        with ConeDetector(bundle.card, engine, 'whole+horizon+strip') as detector:
            before = len(driver.uploaded_bytes)
            found += detector.detect([frame], Filters(), [Horizon(0.5)])[0]
            if not found[1:]:
                (uploaded,) = driver.uploaded_bytes[before:]
                assert uploaded < FIRST_PICTURE + 201 * 324 * 3 + 256
    ours, theirs = found
    assert len(theirs) >= 3
    assert np.array_equal(ours.class_id, theirs.class_id)
    np.testing.assert_allclose(ours.xyxy_px, theirs.xyxy_px, atol=0.5)
    np.testing.assert_allclose(ours.score, theirs.score, atol=0.01)


def test_camera_s_bytes_go_up_as_they_are(open_cuda, bundles, driver):
    grey = CameraPicture(np.full(200 * 340, 114, np.uint8), 'mono8', 330, 200, 340)
    with ConeDetector(bundles['anchors', 1].card, open_cuda()) as detector:
        detector.detect([grey], Filters())
        assert 200 * 330 <= driver.uploaded_bytes[-1] <= 200 * 340 + 2048
        bayer = CameraPicture(np.full(200 * 330, 114, np.uint8), 'bayer_rggb8', 330, 200, 330)
        detector.detect([bayer], Filters())  # which the CPU turns into bgr8
        assert driver.uploaded_bytes[-1] >= 3 * 200 * 330


def test_raw_output_is_the_network_s_own(open_cuda, bundles):
    pictures = np.stack([np.ascontiguousarray(road(2, HEIGHT, WIDTH))])
    cpu = open_engine(bundles['anchors', 1], 'onnxruntime', 1, 1)
    gpu = open_cuda()
    np.testing.assert_allclose(gpu.run(pictures), cpu.run(pictures), atol=1e-4)


def test_it_is_a_frame_engine_and_others_are_not(open_cuda, bundles):
    engine = open_cuda()
    assert isinstance(engine, FrameEngine)
    assert not isinstance(open_engine(bundles['anchors', 1], 'onnxruntime', 1, 1), FrameEngine)


def test_frames_allocate_nothing(open_cuda, driver):
    engine = open_cuda()
    detect(engine)  # its slots may still grow
    detect(engine)
    before = driver.allocations
    for _ in range(20):
        detect(engine)
        detect(engine, road(1, 30, 40))
    assert driver.allocations == before


def test_graph_is_replayed_and_said(open_cuda, driver):
    engine = open_cuda()
    assert engine.launches == 'one CUDA graph'
    before = driver.replays
    detect(engine, road(0, 9, 9))
    assert driver.replays == before + 1


def test_capture_that_fails_leaves_plain_launches_and_says_so(open_cuda, driver):
    driver.failing.append(('capture', EngineError('')))
    engine = open_cuda()
    assert engine.launches.startswith('plain launches: ')
    assert 'CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED' in engine.launches
    assert len(detect(engine)) >= 2
    assert driver.replays == 0


def test_list_that_runs_over_is_counted_and_decoded_on_the_cpu(open_cuda, monkeypatch, bundles):
    engine = open_cuda()
    expected = detect(engine, road(3))
    monkeypatch.setattr('cone_perception.engines.cuda.request.MAX_KEPT', 1)
    monkeypatch.setattr('cone_perception.engines.cuda.device.MAX_KEPT', 1)
    found = detect(engine, road(3))
    assert engine.overflows == 1
    assert np.array_equal(found.xyxy_px, expected.xyxy_px)
    assert np.array_equal(found.class_id, expected.class_id)


def test_two_threads_may_ask_at_once(open_cuda):
    engine = open_cuda()
    pictures = [road(count) for count in (0, 1, 2, 3)] * 4
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda bgr: len(detect(engine, bgr)), pictures)
        alone = [len(detect(engine, bgr)) for bgr in pictures]
        assert list(found) == alone


# --- what goes wrong ---


def test_bad_picture_fails_alone(open_cuda):
    engine = open_cuda()
    short = CameraPicture(np.zeros(5, np.uint8), 'bgr8', 10, 10, 30)
    with pytest.raises(ImageError):
        engine.detect([short], [whole(short)], THRESHOLDS, 0.6)
    assert detect(engine)


def test_no_memory_fails_the_frame_and_loads_again(open_cuda, driver):
    engine = open_cuda()
    before = len(driver.alive)
    driver.failing.append(('memcpy_htod_async', NoMemory('out of memory')))
    with pytest.raises(GpuMemoryError, match='no memory left'):
        detect(engine)
    assert len(detect(engine)) >= 2
    assert engine.reloads == 1
    assert len(driver.alive) == before


def test_error_that_passes_fails_the_frame_only(open_cuda, driver):
    engine = open_cuda()
    driver.failing.append(('record', LogicError('invalid value')))
    with pytest.raises(EngineError, match='invalid value') as caught:
        detect(engine)
    assert not isinstance(caught.value, (EngineLostError, GpuMemoryError))
    assert detect(engine)


def test_error_that_lasts_is_lost_and_nothing_is_touched_again(open_cuda, driver):
    engine = open_cuda()
    driver.broken = LogicError('an illegal memory access was encountered')
    for _ in range(2):
        with pytest.raises(EngineLostError, match='illegal memory access'):
            detect(engine)
    engine.close()
    assert driver.pushed == 1  # its thread stays: pycuda aborts where one ends with a context


def test_close_that_fails_is_lost(open_cuda, driver):
    engine = open_cuda()
    driver.broken = LogicError('unspecified launch failure')
    with pytest.raises(EngineLostError):
        engine.close()


def test_hang_is_lost(open_cuda, driver):
    engine = open_cuda(limit_s=0.2)
    let_go = threading.Event()
    driver.Event.synchronize = lambda self: let_go.wait()  # type: ignore[attr-defined]
    with pytest.raises(EngineLostError, match=r'within 0\.2 s'):
        detect(engine)
    engine.close()
    let_go.set()


def test_fifty_loads_leave_nothing_behind(open_cuda, driver):
    for _ in range(50):
        engine = open_cuda()
        detect(engine)
        engine.close()
        assert (len(driver.alive), driver.pushed, driver.contexts) == (0, 0, 0)


@pytest.mark.parametrize('after', range(1, 9))
def test_no_memory_while_loading_leaves_nothing_behind(open_cuda, driver, after):
    allocate, calls = driver.mem_alloc, []

    def scarce(size: int) -> object:
        calls.append(size)
        if len(calls) == after:
            raise NoMemory('out of memory')
        return allocate(size)

    driver.mem_alloc = scarce  # type: ignore[method-assign]
    with pytest.raises(GpuMemoryError):
        open_cuda()
    assert (len(driver.alive), driver.pushed, driver.contexts) == (0, 0, 0)


def test_network_that_refuses_to_run_is_an_error_at_load(open_cuda, driver):
    with pytest.raises(EngineError, match='no tactic'):
        open_cuda(refuse='no tactic')
    assert (len(driver.alive), driver.pushed, driver.contexts) == (0, 0, 0)


def test_wrong_number_of_thresholds_is_named(open_cuda):
    engine = open_cuda()
    picture = CameraPicture.of_bgr(road())
    with pytest.raises(EngineError, match='2 thresholds for the 5 classes'):
        engine.detect([picture], [whole(picture)], np.ones(2, np.float32), 0.6)


def test_plan_of_ultralytics_is_adopted_and_drives(driver, tmp_path, monkeypatch):
    """All but TensorRT itself, in whose place ONNX Runtime computes on the GPU of CPU memory."""
    pytest.importorskip('onnxruntime')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    bundle = read_bundle(write_tiny_bundle(tmp_path / 'tiny', 'anchors', 1, HEIGHT, WIDTH))
    bundle = with_reference(bundle)
    on_cpu = open_engine(bundle, 'onnxruntime', 1, threads=1)
    pretend_tensorrt(monkeypatch)
    monkeypatch.setattr(tensorrt, 'make_logger', lambda trt: None)
    monkeypatch.setattr(tensorrt, 'TensorRtNetwork', lambda *_: OnnxNetwork(driver, on_cpu))
    monkeypatch.setattr(
        adoption, 'inspect_apart', lambda *_: Compiled(b'', {'unknown': 3}, {}, 0.0)
    )
    path = write_engine(tmp_path / 'best.engine')
    adopt_plan(bundle, path, None, 1, BuildPolicy())
    assert (len(driver.alive), driver.pushed, driver.contexts) == (0, 0, 0)
    engine = open_ordered(order_for(bundle, 'fp32', build='never'))
    assert engine.plan.parent == cache_folder('engines')
    with ConeDetector(bundle.card, engine) as detector:
        assert detector.at_once == 2
        (found,), _ = detector.detect([Frame(road(2))], Filters())
    assert len(found) >= 2


# --- the real libraries, as far as they go without a GPU ---


@pytest.mark.skipif(importlib.util.find_spec('pycuda') is not None, reason='pycuda is here')
def test_missing_pycuda_is_named(bundles):
    bundle = bundles['anchors', 1]
    with pytest.raises(EngineError, match='pip install pycuda'):
        CudaEngine(lambda: None, bundle.card.preprocessing, bundle.card.networks[0], 'none')  # type: ignore[arg-type, return-value]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ('tensorrt', 'tensorrt_rtx_bindings')),
    reason='TensorRT is here',
)
def test_missing_tensorrt_is_named(bundles):
    with pytest.raises(EngineError, match=r'cone_perception\[tensorrt\]'):
        open_engine(bundles['anchors', 1], 'tensorrt')


def test_plan_that_tensorrt_refuses_is_named_with_its_words(tmp_path):
    trt = pytest.importorskip('tensorrt_rtx_bindings')
    from cone_perception.engines.tensorrt.engine import TensorRtNetwork
    from cone_perception.engines.tensorrt.gpu import make_logger
    from cone_perception.engines.tensorrt.plans import EnginePlan

    plan = EnginePlan(tmp_path / 'foreign.plan', b'vtrt' + bytes(200))
    with pytest.raises((PlanError, ModelError), match=r'foreign\.plan is refused.*:'):
        TensorRtNetwork(trt, make_logger(trt), plan)


def test_bindings_of_cuda_have_what_the_graph_calls():
    bindings = pytest.importorskip('cuda.bindings.driver')
    for name in ('BeginCapture', 'EndCapture'):
        assert hasattr(bindings, f'cuStream{name}')
    for name in ('Instantiate', 'Launch', 'Destroy', 'ExecDestroy'):
        assert hasattr(bindings, f'cuGraph{name}')
    assert int(bindings.CUresult.CUDA_ERROR_OUT_OF_MEMORY) == 2


def test_precision_is_the_measured_one_of_those_that_passed_their_gate(
    bundles, tmp_path, monkeypatch
):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    pretend_tensorrt(monkeypatch)
    bundle = next(iter(bundles.values()))
    networks = tuple(
        NetworkFile(f'{p}.onnx', '0' * 64, p, 'int8' if p == 'int8' else 'float')
        for p in ('fp32', 'fp16', 'int8')
    )
    cache_folder('engines').mkdir(parents=True)
    warnings: list[str] = []

    def ask(precision: str = 'best', **passed: bool) -> list[EngineOrder]:
        figures = {kind.replace('_', '-'): {'passed': value} for kind, value in passed.items()}
        card = replace(bundle.card, networks=networks, gate={'passed': True, 'figures': figures})
        policy = BuildPolicy(on_event=lambda event: warnings.append(event.message))
        return make_orders(replace(bundle, card=card), precision, 1, policy)

    def precisions(orders: list[EngineOrder]) -> list[str]:
        return [order.network.precision for order in orders]

    both = ask(int8_int8=True, fp16_float=True)
    assert precisions(both) == ['int8', 'fp16']
    assert warnings == []
    assert read_choice(both) is None
    note_speeds((both[0], 2.0), (both[1], 1.0))
    assert precisions([fastest_order(both, warnings.append)]) == ['fp16']
    only = ask(int8_int8=True, fp16_float=False)
    assert precisions(only) == ['int8']
    assert fastest_order(only, warnings.append) == only[0]
    assert precisions(ask(int8_int8=False, fp16_float=False)) == ['fp32']
    assert 'int8 is left out' in warnings[-2]
    assert precisions(ask('int8')) == ['int8']
    assert 'int8 did not pass the gate' in warnings[-1]
