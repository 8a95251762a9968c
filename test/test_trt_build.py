"""The builder on NVIDIA's own compiler, TensorRT-RTX: no GPU needed, no stand-in for its API.

What needs a GPU is not here: `cone-perception verify-engine` runs that on the GPU's machine.
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from held_bundle import hold_to
from tensorrt_machine import CAR, BuildPolicy, order_for, pretend_tensorrt
from test_trt_bindings import NAMES

from cone_perception.engines import Engine
from cone_perception.engines import build_command as build_engine
from cone_perception.engines import verify_command as verify_engine
from cone_perception.engines.apart import follow
from cone_perception.engines.cpu.open import open_network
from cone_perception.engines.decode import decode
from cone_perception.engines.events import BuildEvent
from cone_perception.engines.tensorrt import compile_process, fastest, gpu, plans, provide
from cone_perception.engines.tensorrt import order as ordering
from cone_perception.engines.tensorrt.compile_process import (
    convolution_precisions,
    layers_from_inspector,
    layers_from_log,
)
from cone_perception.errors import EngineError, PlanError, RefusedPlanError, UnloadablePlanError
from cone_perception.files import to_json
from cone_perception.images import to_bgr
from cone_perception.model_card import Bundle, ModelCard, NetworkFile, file_sha256, read_bundle
from cone_perception.pages.page import render_page
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Detections

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from tiny_network import onnx_model  # noqa: E402

from training.export.quantise import quantise  # noqa: E402

SIDE_PX = 32
SM89 = ordering.target_gpu('SM89', 'tensorrt_rtx')
CONVOLUTIONS = ('/model.0/Conv', '/model.1/Conv', '/model.2/Conv')


def make_network(quantised: tuple[str, ...] = (), step: float = 0.05) -> onnx.ModelProto:
    """Three convolutions, the last one's output as boxes: (1, 3, 32, 32) -> (1, 9, 64)."""
    helper, random = onnx.helper, np.random.default_rng(0)
    nodes, taken, inputs = [], 'images', 3
    tensors = {'shape': np.array([1, 9, 64], np.int64)}
    for index, name in enumerate(CONVOLUTIONS):
        outputs, stride = ((32, 2), (32, 1), (9, 2))[index]
        sizes = {'pads': [1] * 4, 'strides': [stride] * 2}
        tensors[f'w{index}'] = random.normal(0, 0.1, (outputs, inputs, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node('Conv', [taken, f'w{index}'], [f'c{index}'], name, **sizes))
        nodes.append(helper.make_node('Sigmoid', [f'c{index}'], [f'o{index}'], f'/act.{index}'))
        taken, inputs = f'o{index}', outputs
    nodes.append(helper.make_node('Reshape', [taken, 'shape'], ['output'], '/Reshape'))
    model = onnx_model(nodes, tensors, [1, 3, SIDE_PX, SIDE_PX], [1, 9, 64], opset=18)
    model = quantise(model, dict.fromkeys(quantised, step))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / 'bundle', int8_convolutions=2)


def write_bundle(folder: Path, int8_convolutions: int, step: float = 0.05) -> Bundle:
    folder.mkdir()
    networks = []
    for precision, encoding, quantised in (
        ('fp32', 'float', ()),
        ('int8', 'int8', CONVOLUTIONS[1:]),
    ):
        path = folder / f'{precision}.onnx'
        onnx.save(make_network(quantised, step), path)
        networks.append(NetworkFile(path.name, file_sha256(path), precision, encoding))
    names = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')
    card = ModelCard(
        name='tiny',
        class_names=names,
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        output_layout='anchors',
        thresholds=dict.fromkeys(names, 0.25),
        networks=tuple(networks),
        licence='Apache-2.0',
        gate={'int8_convolutions': [int8_convolutions, 3]},
    )
    (folder / 'card.json').write_text(card.to_json())
    return read_bundle(folder)


def write_reference(bundle: Bundle) -> Bundle:
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIDE_PX, SIDE_PX, 3), np.uint8)
    return hold_to(bundle, open_cpu(bundle, 'fp32'), pictures)


def open_cpu(bundle: Bundle, precision: str) -> Engine:
    return open_network(bundle, ordering.network_for_gpu(bundle, precision, 1), 'onnxruntime')


@pytest.fixture
def gpu_in_its_place(monkeypatch):
    """The network that a plan was built from, in ONNX Runtime: a real engine, another device."""

    def open_plan(order, plan):
        return open_cpu(order.bundle, order.key.precision)

    monkeypatch.setattr(ordering, 'read_gpu', lambda: CAR)
    monkeypatch.setattr(provide, 'open_plan', open_plan)


@pytest.fixture
def rtx():
    pytest.importorskip('tensorrt_rtx_bindings')


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


# --- the compiler ---


@pytest.mark.slow
@pytest.mark.parametrize('target', ['SM86', 'SM89', 'SM120'])
def test_quantised_convolutions_compute_in_int8(rtx, target):
    network = make_network(CONVOLUTIONS[1:]).SerializeToString()
    events: list[BuildEvent] = []
    compiled = compile_process.compile_network(
        network, 'tensorrt_rtx', target, 'int8', on_event=events.append
    )
    assert compiled.convolutions == {'fp32': 1, 'int8': 2}
    assert compiled.data[:4] == b'vtrt'
    assert int.from_bytes(compiled.data[16:24], 'little') == len(compiled.data)
    assert BuildEvent('phase', 'Building engine', 0, 6) in events
    assert sum(sum(kinds.values()) for kinds in compiled.layers.values()) >= 3


@pytest.mark.slow
def test_network_without_pairs_computes_nothing_in_int8(rtx):
    network = make_network().SerializeToString()
    compiled = compile_process.compile_network(network, 'tensorrt_rtx', 'SM89', 'fp32')
    assert compiled.convolutions == {'fp32': 3}


def test_what_the_parser_refuses_is_named(rtx):
    model = make_network()
    model.graph.node[0].op_type = 'Konv'
    for network, named in ((model.SerializeToString(), r': Konv /model\.0/Conv'), (b'none', '')):
        with pytest.raises(EngineError, match=f'does not take the network{named}'):
            compile_process.compile_network(network, 'tensorrt_rtx', 'SM89', 'fp32')


def test_gpu_that_the_compiler_does_not_know_is_named(rtx):
    network = make_network().SerializeToString()
    with pytest.raises(EngineError, match=r'does not compile for SM90, only for SM75, .*SM89'):
        compile_process.compile_network(network, 'tensorrt_rtx', 'SM90', 'fp32')


def test_every_name_used_of_the_bindings_exists(rtx):
    """All that builder and engine take of them, also on the way that only a GPU can go."""
    _, trt = gpu.import_runtime('tensorrt_rtx')
    operator.attrgetter(*NAMES.split())(trt)
    assert trt.Runtime(gpu.make_logger(trt)) is not None


# --- layers, as the two compilers write them ---


def test_layers_of_tensorrt_are_read_from_its_inspector():
    def layer(name: str, kind: str, datatype: str, **more: object) -> dict[str, object]:
        inputs = [{'Name': 'x', 'Format/Datatype': datatype}]
        return {'Name': name, 'LayerType': kind, 'Inputs': inputs, **more}

    copied = 'Reformatting CopyNode for Input Tensor 0 to /model.0/Conv'
    fused = '/model.0/Conv + PWN(/model.0/Sigmoid) || /model.1/Conv'
    names = '[ONNX Layer: w_dq]\x1e[ONNX Layer: /model.2/Conv]'
    layers = layers_from_inspector(
        json.dumps({'Layers': [
            layer(copied, 'Reformat', 'Row major FP32', Metadata='[ONNX Layer: /model.0/Conv]'),
            layer(fused, 'CaskConvolution', 'Thirty-two wide channel vectorized row major Int8',
                  Weights={'Type': 'Int8', 'Count': 512}),
            layer('fused', 'CaskConvolution', 'Channel major FP16 format', Metadata=names),
        ]})
    )  # fmt: skip
    wanted = (*CONVOLUTIONS, '/model.9/Conv')
    assert convolution_precisions(layers, wanted) == {'fp16': 1, 'int8': 2, 'unknown': 1}


def test_line_that_names_no_layer_is_no_layer():
    assert layers_from_log(['Engine generation completed', '', 'Name: x, Type: y']) == ()


# --- the process of its own ---


def run_apart(code: str, timeout_s: float = 30.0, **more: object) -> dict:
    command = [sys.executable, '-c', textwrap.dedent(code)]
    names = 'the compiler', 'the network could not be compiled.'
    return follow(command, *names, timeout_s=timeout_s, **more)


CRASH = """
    import os, signal
    print('tactic 7', flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
"""
HANG = 'import time; time.sleep(600)'


@pytest.mark.parametrize(
    'code, given, words',
    [
        (CRASH, {}, r'crashed \(SIGSEGV\)\. It last said: tactic 7'),
        (HANG, {'timeout_s': 1}, 'did not answer within 1 s and was stopped'),
        (HANG, {'cancelled': lambda: True}, 'was stopped before it was done'),
        ('', {}, 'could not be compiled. It said nothing'),
    ],
)
def test_end_without_a_result_is_an_error_that_names_it(code, given, words):
    started = time.monotonic()
    with pytest.raises(EngineError, match=words):
        run_apart(code, **given)
    assert time.monotonic() - started < 60


def test_what_libraries_print_is_no_event():
    found = run_apart("""
        print('[TRT] [I] {"kind"')
        print('7')
        print('{"result": {"convolutions": {}, "layers": {}, "build_s": 1.5}}')
    """)
    assert found == {'convolutions': {}, 'layers': {}, 'build_s': 1.5}


def test_builder_ends_with_the_process_that_started_it(tmp_path):
    code = (
        'import sys, threading, time; '
        'from cone_perception.engines.apart import end_with_parent;'
        'threading.Thread(target=end_with_parent, daemon=True).start();'
        "print('up', flush=True); time.sleep(600)"
    )
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen([sys.executable, '-c', code], **pipes) as process:
        assert process.stdout.readline() == b'up\n'
        process.stdin.close()
        assert process.wait(timeout=30) == 3


@pytest.mark.slow
def test_refusal_of_the_compiler_reaches_the_caller(rtx, bundle):
    path = bundle.folder / 'fp32.onnx'
    model = onnx.load(path)
    model.graph.node[0].op_type = 'Unheard'
    onnx.save(model, path)
    network = replace(bundle.card.networks[0], sha256=file_sha256(path))
    order = ordering.make_order(bundle, network, BuildPolicy(), 'tensorrt_rtx', SM89)
    with pytest.raises(EngineError, match='(?s)not be compiled. It last said: .*does not take'):
        compile_process.compile_apart(order)


# --- from bundle to plan ---


def get_plan(bundle, precision='fp32', **policy):
    return provide.provide_plan(order_for(bundle, precision, **policy))


@pytest.mark.slow
def test_second_start_takes_the_plan_of_the_first(rtx, bundle):
    events: list[BuildEvent] = []
    first = get_plan(bundle, 'int8', gpu=SM89, on_event=events.append)
    kinds = [event.kind for event in events if event.kind in ('reason', 'built')]
    assert kinds == ['reason', 'built']
    passport = plans.read_passport(plans.passport_path(first.path))
    assert passport.convolutions == {'fp32': 1, 'int8': 2}
    assert passport.key.provider_version == gpu.import_runtime('tensorrt_rtx')[1].__version__
    assert (passport.key.compute_capability, passport.key.gpu) == ('8.9', '')
    events.clear()
    again = get_plan(bundle, 'int8', gpu=SM89, build='never', on_event=events.append)
    assert again == first
    assert events == []
    # The same plan, taken along to a machine with such a GPU.
    assert get_plan(bundle, 'int8', gpu=CAR, build='never') == first
    other = replace(CAR, compute_capability='8.6')
    with pytest.raises(PlanError, match=r'compute_capability is 8\.6.*build: never'):
        get_plan(bundle, 'int8', gpu=other, build='never')


@pytest.mark.slow
def test_damaged_plan_is_named_and_built_again(rtx, bundle):
    first = get_plan(bundle, gpu=SM89)
    first.path.write_bytes(first.data[:1000])
    events: list[BuildEvent] = []
    again = get_plan(bundle, gpu=SM89, on_event=events.append)
    assert 'was cut off' in events[0].message
    assert again.passport.convolutions == {'fp32': 3}


@pytest.mark.slow
def test_plan_with_fewer_int8_convolutions_than_the_card_says_is_refused(rtx, tmp_path):
    bundle = write_bundle(tmp_path / 'bundle', int8_convolutions=3)
    refusal = r'computes 2 convolutions in INT8, but its card says 3'
    with pytest.raises(RefusedPlanError, match=refusal):
        get_plan(bundle, 'int8', gpu=SM89)
    # The next start of a node knows it, and does not compile for minutes to hear it again.
    events: list[BuildEvent] = []
    with pytest.raises(RefusedPlanError, match=refusal + r'.*run `cone-perception build-engine'):
        get_plan(bundle, 'int8', retry=False, gpu=SM89, on_event=events.append)
    assert events == []
    with pytest.raises(RefusedPlanError, match=refusal):
        get_plan(bundle, 'int8', gpu=SM89, on_event=events.append)
    assert refusal in events[0].message
    assert len(events) > 1  # a command that was asked to build does so


@pytest.mark.slow
def test_gpu_for_which_the_compiler_has_no_int8_is_refused(rtx, bundle):
    """TensorRT-RTX 1.7 compiles the same file for Turing, but computes it in FP32 there."""
    with pytest.raises(PlanError, match=r'computes 0 convolutions in INT8.*the others: 3 fp32'):
        get_plan(bundle, 'int8', gpu=ordering.target_gpu('SM75', 'tensorrt_rtx'))


@pytest.mark.slow
def test_two_starts_at_once_build_once(rtx, bundle):
    events: list[BuildEvent] = []
    order = order_for(bundle, 'fp32', gpu=SM89, on_event=events.append)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(provide.provide_plan, [order] * 2)
    assert first == second
    assert len([event for event in events if event.kind == 'built']) == 1


@pytest.mark.slow
def test_plan_that_failed_against_fp32_is_not_taken_again(rtx, bundle):
    plan = get_plan(bundle, gpu=SM89)
    plans.record_check(plan.path, {'passed': False, 'reasons': ['scores differ by 0.3']})
    with pytest.raises(PlanError, match=r'did not answer as FP32 does: scores differ by 0\.3'):
        get_plan(bundle, gpu=SM89, build='never')


# --- a build that failed, a plan that TensorRT refuses ---


@pytest.fixture
def compiler(monkeypatch):
    """In the place of a TensorRT 10.9 that compiles on a machine with a GPU."""
    stand_in = Compiler()
    pretend_tensorrt(monkeypatch)
    monkeypatch.setattr(provide, 'compile_apart', stand_in)
    return stand_in


class Compiler:
    """compile_apart: fails with what it is given, else makes plans that differ."""

    def __init__(self) -> None:
        self.calls = 0
        self.failure = ''

    def __call__(self, *arguments: object, **options: object) -> plans.Compiled:
        self.calls += 1
        if self.failure:
            raise EngineError(self.failure)
        return plans.Compiled(b'ftrt' + bytes([self.calls] * 500), {'fp32': 3}, {}, 1.0)


def test_build_that_failed_is_not_tried_at_each_start(bundle, compiler):
    compiler.failure = 'the compiler crashed (SIGSEGV).'
    with pytest.raises(EngineError, match='crashed'):
        get_plan(bundle, retry=False)
    refusal = (
        r'fp32, batch 1, tensorrt\) could not be built here at \d{4}-.*crashed \(SIGSEGV\)'
        r'.*run `cone-perception build-engine .* --precision fp32`'
    )
    for policy in ('auto', 'never'):
        with pytest.raises(RefusedPlanError, match=refusal):
            get_plan(bundle, retry=False, build=policy)
    assert compiler.calls == 1
    # Another driver, and the command: both try again.
    with pytest.raises(EngineError, match='crashed'):
        get_plan(bundle, gpu=replace(CAR, driver='560'), retry=False)
    compiler.failure = ''
    plan = get_plan(bundle)
    assert compiler.calls == 3
    assert get_plan(bundle, retry=False) == plan
    plan.path.unlink()
    get_plan(bundle, retry=False)
    assert compiler.calls == 4  # the failure is forgotten


def test_build_that_was_stopped_has_not_failed(bundle, compiler):
    compiler.failure = 'the build of the engine was stopped before it was done.'
    with pytest.raises(EngineError, match='stopped'):
        get_plan(bundle, retry=False, cancelled=lambda: True)
    compiler.failure = ''
    assert get_plan(bundle, retry=False).passport


@pytest.mark.parametrize('text', ['', '[]', '{"reason": 1}', 'null'])
def test_unreadable_note_of_a_failure_is_as_none(bundle, compiler, text):
    path = get_plan(bundle).path
    path.unlink()
    path.with_suffix('.failed').write_text(text)
    assert get_plan(bundle, retry=False).path == path


def refuse_to_load(monkeypatch: pytest.MonkeyPatch, *refused: bytes) -> None:
    def load(order, plan):
        if plan.data[4:5] in refused:
            raise UnloadablePlanError(f'{plan.path.name} is refused by TensorRT: magic.')
        return plan.data[4:5]

    monkeypatch.setattr(provide, 'open_plan', load)


def test_plan_that_tensorrt_refuses_is_built_once_more(bundle, compiler, monkeypatch):
    get_plan(bundle)
    events: list[BuildEvent] = []
    policy = {'retry': False, 'on_event': events.append}
    refuse_to_load(monkeypatch, b'\1')
    with pytest.raises(PlanError, match=r'is refused by TensorRT: magic.*build: never'):
        provide.provide_engine(order_for(bundle, 'fp32', build='never', **policy))
    assert events == []
    assert provide.provide_engine(order_for(bundle, 'fp32', **policy))[1] == b'\2'
    assert 'is refused by TensorRT: magic' in events[0].message
    refuse_to_load(monkeypatch)
    assert provide.provide_engine(order_for(bundle, 'fp32', **policy))[1] == b'\2'


def test_plan_that_tensorrt_refuses_fresh_from_its_compiler_is_a_failed_build(
    bundle, compiler, monkeypatch
):
    refuse_to_load(monkeypatch, b'\1', b'\2', b'\3')
    order = order_for(bundle, 'fp32', retry=False)
    with pytest.raises(RefusedPlanError, match=r'cannot be used: it was compiled, but .*magic'):
        provide.provide_engine(order)
    with pytest.raises(RefusedPlanError, match=r'could not be built here at .*magic'):
        provide.provide_engine(order)
    assert compiler.calls == 1
    with pytest.raises(RefusedPlanError, match='cannot be used'):
        provide.provide_engine(order_for(bundle, 'fp32'))
    assert compiler.calls == 2


def test_provider_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(gpu, 'MODULES', {'tensorrt': ('no_a',), 'tensorrt_rtx': ('no_b',)})
    with pytest.raises(EngineError, match=r'^TensorRT, version 10 or 11 .* or TensorRT-RTX .* not'):
        gpu.import_runtime()
    with pytest.raises(EngineError, match=r'^TensorRT-RTX .*\[rtx\].* is not installed'):
        gpu.import_runtime('tensorrt_rtx')
    with pytest.raises(EngineError, match='is not known; choose one of auto'):
        gpu.import_runtime('cudnn')


def test_machine_without_a_driver_is_named(monkeypatch):
    def refuse(name: str) -> None:
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr(gpu.ctypes, 'CDLL', refuse)
    with pytest.raises(EngineError, match=r'no NVIDIA driver: libcuda\.so\.1: cannot open'):
        gpu.read_gpu()


# --- the commands ---


def run_command(module: object, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args(arguments))


@pytest.mark.slow
@pytest.mark.usefixtures('rtx')
def test_plan_for_another_machine_is_built_and_copied(bundle, tmp_path, capsys):
    out = tmp_path / 'out'
    asked = (str(bundle.folder), '--precision', 'int8', '--for', 'SM89', '--out', str(out))
    assert run_command(build_engine, *asked) == 0
    assert sorted(path.suffix for path in out.iterdir()) == ['.json', '.plan']
    assert 'convolutions 1 fp32, 2 int8 (card: 2 int8)' in capsys.readouterr().out


@pytest.mark.parametrize('target', ['SM8x', '4060'])
def test_target_that_is_none_is_named(rtx, bundle, target):
    with pytest.raises(EngineError, match='named by its compute capability'):
        run_command(build_engine, str(bundle.folder), '--precision', 'int8', '--for', target)


@pytest.mark.slow
def test_the_only_one_that_may_drive_starts_again_without_a_build(rtx, gpu_in_its_place, tmp_path):
    bundle = write_reference(write_bundle(tmp_path / 'bundle', int8_convolutions=3))
    seen = []
    for _ in range(2):
        events: list[BuildEvent] = []
        policy = {'retry': False, 'on_event': events.append}
        orders = [order_for(bundle, precision, **policy) for precision in ('int8', 'fp32')]
        built = fastest.build_engines(orders, print)
        assert [engine.precision for engine in built] == ['fp32']
        assert [e for e in events if e.kind == 'error' and 'int8: the engine of' in e.message]
        seen.append({event.kind for event in events})
    assert 'phase' in seen[0]
    assert seen[1] == {'error'}


@pytest.mark.slow
@pytest.mark.usefixtures('rtx', 'gpu_in_its_place')
def test_engines_are_checked_timed_and_the_fastest_is_remembered(bundle, monkeypatch):
    """On a GPU that is not there: compiled for real, run by another engine in its place."""
    monkeypatch.setattr(fastest, 'RUNS', 5)
    order = order_for(write_reference(bundle), 'fp32')
    built = fastest.build_engines([order, order], print)
    assert [engine.check.passed for engine in built] == [True, True]
    assert all(engine.latency is not None and engine.latency.runs == 5 for engine in built)
    passport = plans.read_passport(plans.passport_path(built[0].plan.path))
    assert passport.key.gpu == CAR.name
    assert passport.check['passed'] is True
    assert passport.key == order.key
    assert fastest.keep_fastest(built, print).order == order
    assert fastest.read_choice([order]) == order
    other = replace(order, key=replace(order.key, driver='560.35.03'))
    assert fastest.read_choice([other]) is None


@pytest.mark.slow
def test_page_says_what_passed_and_what_failed(rtx, gpu_in_its_place, tmp_path):
    """With steps so small that INT8 ends where the values begin."""
    bundle = write_reference(write_bundle(tmp_path / 'bad', int8_convolutions=2, step=0.0005))
    found = verify_engine.verify(bundle, 'auto', BuildPolicy(), 5)
    good, bad = found['engines']
    assert (good.precision, good.failure) == ('fp32', '')
    assert good.check['passed'] is True
    assert good.latency is not None
    assert good.frame_latency is not None
    assert bad.precision == 'int8'
    assert bad.passport['convolutions'] == {'fp32': 1, 'int8': 2}
    assert bad.failure.startswith('differs from FP32')
    assert not found['passed']
    page = render_page(verify_engine.make_page(found))
    assert 'fp32.onnx' in page
    assert 'src=' not in page
    assert 'http' not in page.replace('http-equiv', '')
    stored = json.loads(to_json(found))
    assert stored['passed'] is False
    assert [engine['precision'] for engine in stored['engines']] == ['fp32', 'int8']


class OnGpu:
    """An engine that decodes by itself, and may do it wrongly."""

    encodings = frozenset({'bgr8'})
    launches = 'plain launches: no GPU'

    def __init__(self, engine: Engine, bundle: Bundle, shift_px: float, only: str = '') -> None:
        """only: name of the one view whose boxes are shifted; empty: all."""
        self.info, self.run, self.close = engine.info, engine.run, engine.close
        self._layout = bundle.card.output_layout
        self._shift_px = shift_px
        self._only = only

    def detect(
        self, pictures: list, views: list, thresholds: np.ndarray, nms_iou: float
    ) -> list[Detections]:
        (picture,), (view,) = pictures, views
        shown = np.empty_like(to_bgr(picture))
        view.apply(to_bgr(picture), shown)
        found = decode(self.run(shown[None])[0], self._layout, thresholds, nms_iou)
        shift_px = self._shift_px if self._only in ('', view.name) else 0
        return [replace(found, xyxy_px=found.xyxy_px + np.float32(shift_px))]


def test_time_from_720p_to_cones_is_that_of_all_stations(bundle, monkeypatch):
    class Slow(ConeDetector):
        def detect(self, *_: object) -> None:
            time.sleep(0.007)

    monkeypatch.setattr(verify_engine, 'ConeDetector', Slow)
    report = verify_engine.EngineReport('fp32.onnx', 'fp32', 1)
    engine = open_cpu(bundle, 'fp32')
    verify_engine.time_engines(write_reference(bundle), [(report, engine)], 3)
    engine.close()
    assert 7 <= report.frame_latency.median_ms <= report.frame_latency.p99_ms < 1000
    assert report.frame_latency.runs == 3


@pytest.mark.parametrize(
    'shift_px, only, failure',
    [(0.0, '', ''), (0.8, '', 'decoding on the GPU differs'), (0.8, 'horizon', 'view horizon')],
)
def test_views_and_decoding_on_the_gpu_are_held_against_the_cpu(bundle, shift_px, only, failure):
    bundle = write_reference(bundle)
    engine = OnGpu(open_cpu(bundle, 'fp32'), bundle, shift_px, only)
    found = verify_engine.difference_on_gpu(bundle, engine)
    assert failure in found
    assert bool(found) == bool(failure)


def test_page_is_written_where_nothing_works(bundle, tmp_path, monkeypatch):
    errors = [EngineError('no NVIDIA driver.'), AttributeError('a name that the bindings lack')]

    def fail():
        raise errors.pop()

    pretend_tensorrt(monkeypatch)
    monkeypatch.setattr(ordering, 'read_gpu', fail)
    out = tmp_path / 'page'
    assert run_command(verify_engine, str(bundle.folder), '--out', str(out)) == 1
    page = (out / 'verify-engine-tiny.html').read_text()
    assert 'FAILED' in page
    assert 'a name that the bindings lack' in page
    assert 'Traceback' in page
    assert 'no NVIDIA driver' in page
    assert json.loads((out / 'verify-engine-tiny.json').read_text())['passed'] is False
