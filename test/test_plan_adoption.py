"""Plans that were compiled elsewhere: Ultralytics' header against the card, then as every plan."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from held_bundle import hold_to, open_cpu
from tensorrt_machine import CAR, BuildPolicy, note_speeds, order_for, pretend_tensorrt
from tiny_network import CLASS_NAMES, paint, write_tiny_bundle
from tiny_yolo import write_architecture

from cone_perception.engines import Engine
from cone_perception.engines import build_command as build_engine
from cone_perception.engines.tensorrt import order
from cone_perception.engines.tensorrt import provide as adoption
from cone_perception.engines.tensorrt.fastest import read_choice
from cone_perception.engines.tensorrt.plans import Compiled, EnginePlan, read_plan
from cone_perception.engines.tensorrt.provide import (
    adopt_plan,
    header_differences,
    header_precision,
    provide_plan,
)
from cone_perception.errors import EngineError, ModelError, PlanError, RefusedPlanError
from cone_perception.files import cache_folder
from cone_perception.model_card import Bundle, read_bundle

Adopt = Callable[..., EnginePlan]
HEIGHT, WIDTH = 96, 160
PLAN = b'ftrt' + bytes(range(256)) * 8
HEADER = {  # as Ultralytics 8.4.190 writes it
    'description': 'Ultralytics YOLO26n model ',
    'author': 'Ultralytics',
    'date': '2026-05-04T03:02:01+00:00',
    'version': '8.4.190',
    'stride': 32,
    'task': 'detect',
    'head': 'Detect',
    'batch': 1,
    'imgsz': [HEIGHT, WIDTH],
    'names': dict(enumerate(CLASS_NAMES)),
    'args': {'batch': 1, 'dynamic': False, 'quantize': None, 'nms': False, 'simplify': True},
    'channels': 3,
    'end2end': False,
}


@pytest.fixture
def bundle(tmp_path):
    """The bundle of a network that finds painted cones, and pictures to hold engines to."""
    pytest.importorskip('onnxruntime')
    folder = write_tiny_bundle(tmp_path / 'tiny', 'anchors', 1, HEIGHT, WIDTH)
    return with_reference(read_bundle(folder))


def with_reference(bundle: Bundle) -> Bundle:
    pictures = np.full((2, HEIGHT, WIDTH, 3), 114, np.uint8)
    for index, name in enumerate(('blue_cone', 'yellow_cone')):
        paint(pictures[index], name, 32 + 32 * index, 32, 32, 32)
    return hold_to(bundle, open_cpu(bundle), pictures)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return cache_folder('engines')


@pytest.fixture
def tensorrt(monkeypatch):
    """A machine with TensorRT 10.9 and a GPU; what its reader of plans counts may be changed."""
    counted = {'fp32': 3}
    pretend_tensorrt(monkeypatch)
    monkeypatch.setattr(adoption, 'open_plan', lambda order, plan: open_cpu(order.bundle))
    monkeypatch.setattr(
        adoption, 'inspect_apart', lambda *arguments: Compiled(b'', counted, {}, 0.0)
    )
    return counted


def write_engine(path: Path, header: object = HEADER, plan: bytes = PLAN) -> Path:
    """A plan as Ultralytics writes it; without a header as trtexec does."""
    text = json.dumps(header)
    prefix = len(text).to_bytes(4, 'little', signed=True) + text.encode() if header else b''
    path.write_bytes(prefix + plan)
    return path


@pytest.fixture
def adopt(bundle, cache, tmp_path):
    """Write a plan and adopt it for the bundle, or for another one."""

    def take(
        header: object = HEADER,
        name: str = 'best.engine',
        plan: bytes = PLAN,
        precision: str | None = None,
        bundle: Bundle = bundle,
    ) -> EnginePlan:
        path = write_engine(tmp_path / name, header, plan)
        return adopt_plan(bundle, path, precision, 1, BuildPolicy())[1]  # type: ignore[arg-type]

    return take


# --- the header ---


@pytest.mark.parametrize(
    ('entry', 'value', 'words'),
    [
        ('task', 'segment', 'its task: segment, not detect'),
        ('batch', 2, 'its batch: 2, not 1'),
        ('imgsz', [640, 640], r'its input \(height, width\): 640, 640, not 96, 160'),
        ('imgsz', 640, r'its input \(height, width\): 640, 640, not 96, 160'),
        ('channels', 1, 'its channels: 1, not 3'),
        ('names', {0: 'cone'}, 'its classes: cone, not blue_cone, large_orange_cone'),
        ('names', dict(enumerate(CLASS_NAMES[::-1])), 'its classes: yellow_cone'),
        ('args', {'dynamic': True}, 'its dynamic shapes: True, not False'),
        ('args', {'nms': True}, 'its own NMS: True, not False'),
        ('end2end', True, 'its end-to-end output: True, not False'),
    ],
)
def test_what_differs_from_the_card_is_named(cache, adopt, entry, value, words):
    with pytest.raises(PlanError, match=f'is not an engine of tiny, by its header: {words}'):
        adopt(HEADER | {entry: value})
    assert not cache.exists()


def test_everything_that_differs_is_named_at_once(bundle):
    header = HEADER | {'batch': 4, 'task': 'pose', 'names': {0: 'x'}}
    assert len(header_differences(header, bundle.card, 1)) == 3
    assert header_differences(HEADER, bundle.card, 1) == []
    assert header_differences({}, bundle.card, 1) == []


@pytest.mark.parametrize(
    ('arguments', 'precision'),
    [
        ({'quantize': None}, 'fp32'),
        ({'quantize': 32}, 'fp32'),
        ({'quantize': 16}, 'fp16'),
        ({'quantize': 8}, 'int8'),
        ({'quantize': 'w8a16'}, None),
        ({'half': False, 'int8': False}, 'fp32'),
        ({'half': True, 'int8': False}, 'fp16'),
        ({'half': True, 'int8': True}, 'int8'),
        ({}, None),
    ],
)
def test_precision_is_read_as_new_and_old_ultralytics_write_it(arguments, precision):
    assert header_precision({'args': arguments}) == precision


def test_precision_that_is_not_known_or_another_is_asked_for(adopt):
    with pytest.raises(PlanError, match='is fp32, by its header, not fp16'):
        adopt(precision='fp16')
    with pytest.raises(PlanError, match='does not say what it computes in: give --precision'):
        adopt(header=None)


# --- from there on as every plan ---


def test_plan_that_passes_is_the_bundle_s_own_from_then_on(bundle, cache, tensorrt, adopt):
    plan = adopt()
    assert plan.data == PLAN  # without the header: as TensorRT takes it
    passport = plan.passport
    assert passport.origin == 'best.engine, Ultralytics 8.4.190 of 2026-05-04T03:02:01+00:00'
    assert passport.convolutions == {'fp32': 3}
    assert passport.check['passed'] is True
    assert (passport.key.gpu, passport.key.driver) == (CAR.name, CAR.driver)
    policy = {'build': 'never', 'retry': False}
    assert provide_plan(order_for(bundle, 'fp32', **policy)) == plan
    elsewhere = replace(CAR, name='NVIDIA GeForce RTX 3060')
    with pytest.raises(PlanError, match='gpu is NVIDIA GeForce RTX 3060'):
        provide_plan(order_for(bundle, 'fp32', gpu=elsewhere, **policy))


def test_plan_without_header_is_taken_when_its_precision_is_told(tensorrt, adopt):
    plan = adopt(None, 'trtexec.plan', precision='fp32')
    assert plan.passport.origin == 'trtexec.plan'


def test_what_was_measured_of_the_plan_before_is_forgotten_and_so_is_its_failure(
    bundle, cache, tensorrt, adopt
):
    asked = order_for(bundle, 'fp32')
    asked.place.record_failure('the compiler crashed')
    note_speeds((asked, 1.0), (asked, 2.0))
    assert read_choice([asked]) == asked
    adopt()
    assert asked.place.failure() == ''
    assert read_choice([asked]) is None


def test_plan_of_other_weights_is_refused_and_the_cache_keeps_what_it_had(
    bundle, cache, tensorrt, adopt, monkeypatch
):
    before = adopt()

    def open_blind(*_: object) -> Engine:
        engine = open_cpu(bundle)
        run = engine.run
        monkeypatch.setattr(engine, 'run', lambda pictures: run(pictures) * 0)
        return engine

    monkeypatch.setattr(adoption, 'open_plan', open_blind)
    with pytest.raises(RefusedPlanError, match=r'other\.engine is not taken: .*same weights'):
        adopt(name='other.engine', plan=b'ftrt' + bytes(600))
    assert provide_plan(order_for(bundle, 'fp32', build='never')) == before


def test_plan_whose_shape_is_not_the_card_s_is_refused(
    cache, tensorrt, adopt, tmp_path, monkeypatch
):
    """Whatever a header says, or where there is none."""
    other = read_bundle(write_tiny_bundle(tmp_path / 'larger', 'anchors', 1, 128, 160))
    monkeypatch.setattr(adoption, 'open_plan', lambda *_: open_cpu(other))
    with pytest.raises(ModelError, match=r'best\.engine takes \(1, 3, 128, 160\), but its card'):
        adopt()
    assert not cache.exists()


@pytest.mark.parametrize('counted', [{'fp32': 2, 'int8': 1}, {'unknown': 3}])
def test_plan_with_fewer_int8_convolutions_than_the_card_says_is_refused(
    bundle, tensorrt, adopt, counted
):
    network = replace(bundle.card.networks[0], precision='int8', encoding='int8')
    card = replace(bundle.card, networks=(network,), gate={'int8_convolutions': [2, 3]})
    tensorrt.clear()
    tensorrt.update(counted)
    refusal = r'best\.engine is not taken: .*in INT8, but its card says 2'
    with pytest.raises(RefusedPlanError, match=refusal) as caught:
        adopt(HEADER | {'args': {'quantize': 8}}, bundle=replace(bundle, card=card))
    assert ('without detailed profiling' in str(caught.value)) == ('unknown' in counted)


@pytest.mark.usefixtures('cache', 'tensorrt')
def test_command_says_what_it_took(bundle, tmp_path, capsys):
    path = write_engine(tmp_path / 'best.engine')
    parser = argparse.ArgumentParser()
    build_engine.add_arguments(parser)
    out = tmp_path / 'out'
    given = [str(bundle.folder), '--plan', str(path), '--out', str(out)]
    assert build_engine.run(parser.parse_args(given)) == 0
    said = capsys.readouterr().out
    assert 'from best.engine, Ultralytics 8.4.190' in said
    assert sorted(file.suffix for file in out.iterdir()) == ['.json', '.plan']
    with pytest.raises(SystemExit):
        parser.parse_args([*given, '--for', 'SM89'])


# --- real bytes, on the real bindings as far as they go without a GPU ---

EXPORT = """
import importlib.machinery, sys, types
from pathlib import Path

import tensorrt_rtx_bindings as rtx

class Builder(rtx.Builder):
    def create_builder_config(self):
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        return config

# Ultralytics knows TensorRT only, whose interface TensorRT-RTX has.
stand_in = types.ModuleType('tensorrt')
stand_in.__dict__.update({k: v for k, v in vars(rtx).items() if not k.startswith('__')})
stand_in.__spec__ = importlib.machinery.ModuleSpec('tensorrt', None)
stand_in.__version__ = '11.4.0'
stand_in.Builder = Builder
sys.modules['tensorrt'] = stand_in

from training.ultralytics_cpu import prepare_ultralytics

prepare_ultralytics()
from ultralytics import YOLO
from ultralytics.utils.export.engine import onnx2engine

folder = Path(sys.argv[1])
YOLO(sys.argv[2], task='detect').save(folder / 'best.pt')
header = {}
model = YOLO(folder / 'best.pt')
model.model.names = dict(enumerate(sys.argv[3:]))
model.add_callback('on_export_end', lambda exporter: header.update(exporter.metadata))
network = model.export(format='onnx', imgsz=(96, 160), end2end=False)
onnx2engine(network, folder / 'best.engine', metadata=header, shape=(1, 3, 96, 160))
"""


@pytest.mark.slow
def test_engine_that_ultralytics_itself_wrote_is_read_and_held_against_the_card(
    bundle, cache, tmp_path, monkeypatch
):
    pytest.importorskip('tensorrt_rtx_bindings')
    pytest.importorskip('ultralytics')
    architecture = write_architecture(tmp_path, width=1.0)
    done = subprocess.run(
        [sys.executable, '-c', EXPORT, tmp_path, architecture, *CLASS_NAMES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / 'best.engine'
    plan = read_plan(path)
    assert plan.data[:4] == b'vtrt'
    assert plan.metadata['author'] == 'Ultralytics'
    assert header_differences(plan.metadata, bundle.card, 1) == []
    assert header_precision(plan.metadata) == 'fp32'
    larger = replace(bundle.card, width_px=640)
    assert header_differences(plan.metadata, larger, 2) == [
        'its batch: 1, not 2', 'its input (height, width): 96, 160, not 96, 640',
    ]  # fmt: skip
    monkeypatch.setattr(order, 'read_gpu', lambda: CAR)
    # Only a GPU takes the plan itself. Whoever reads it is a process of its own.
    with pytest.raises(EngineError, match=r'could not be read\. It last said: .*refuses the plan'):
        adopt_plan(bundle, path, None, 1, BuildPolicy())
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(PlanError, match='was cut off'):
        adopt_plan(bundle, path, None, 1, BuildPolicy())
    assert not cache.exists()
