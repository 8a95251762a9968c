"""Tests where a network is opened when a GPU is there, is not, or does not do its work."""

from __future__ import annotations

import pytest
from tensorrt_machine import pretend_tensorrt
from tiny_network import write_tiny_bundle

from cone_perception.engines import open as placement
from cone_perception.engines.open import place_network
from cone_perception.engines.tensorrt import order
from cone_perception.engines.tensorrt.gpu import Gpu
from cone_perception.errors import EngineError, EngineLostError, ModelError, PlanError
from cone_perception.model_card import read_bundle
from cone_perception.settings import DetectorSettings


@pytest.fixture
def bundle(tmp_path):
    return read_bundle(write_tiny_bundle(tmp_path / 'tiny'))


def gpu_that_raises(monkeypatch, error):
    def open_on_gpu(*arguments):
        raise error

    monkeypatch.setattr(placement, '_open_on_gpu', open_on_gpu)


@pytest.mark.parametrize('error', [PlanError('no plan'), EngineError('no GPU'), ModelError('none')])
def test_auto_takes_the_cpu_and_keeps_the_reason(bundle, monkeypatch, error):
    gpu_that_raises(monkeypatch, error)
    placed = place_network(bundle, DetectorSettings())
    assert placed.engine.info.device == 'CPU'
    assert placed.plan is None
    assert placed.warnings == (f'device: auto takes the CPU: {error}',)
    placed.engine.close()


@pytest.mark.parametrize(
    'values', [{'device': 'cuda'}, {'engine': 'tensorrt_rtx'}, {'build_only': True}]
)
def test_what_names_the_gpu_is_refused_with_its_setting(bundle, monkeypatch, values):
    gpu_that_raises(monkeypatch, PlanError('no plan'))
    settings = DetectorSettings(**values)
    with pytest.raises(EngineError, match=f'{settings.gpu_asked_by} is set, but no plan'):
        place_network(bundle, settings)


def test_lost_gpu_is_not_hidden_behind_the_cpu(bundle, monkeypatch):
    gpu_that_raises(monkeypatch, EngineLostError('it hangs'))
    with pytest.raises(EngineLostError, match='it hangs'):
        place_network(bundle, DetectorSettings())


def test_build_that_was_stopped_opens_nothing(bundle, monkeypatch):
    gpu_that_raises(monkeypatch, EngineError('stopped'))
    with pytest.raises(EngineError, match='stopped'):
        place_network(bundle, DetectorSettings(), cancelled=lambda: True)


@pytest.mark.parametrize('values', [{'device': 'cpu'}, {'engine': 'openvino'}])
def test_gpu_is_not_touched_where_the_cpu_was_asked_for(bundle, monkeypatch, values):
    gpu_that_raises(monkeypatch, AssertionError('touched'))
    placed = place_network(bundle, DetectorSettings(**values))
    assert placed.engine.info.device == 'CPU'
    assert placed.warnings == ()
    placed.engine.close()


def test_precision_that_is_named_is_the_one_that_runs_on_the_cpu(bundle):
    with pytest.raises(ModelError, match='lists no int8 network'):
        place_network(bundle, DetectorSettings(device='cpu', precision='int8'))
    placed = place_network(bundle, DetectorSettings(device='cpu', precision='fp32'))
    assert placed.engine.info.precision == 'fp32'
    placed.engine.close()


def test_gpu_older_than_turing_is_named(bundle, monkeypatch):
    monkeypatch.setattr(order, 'read_gpu', lambda: Gpu('GTX 1080', '6.1', '550.54', '12.4'))
    with pytest.raises(EngineError, match=r'GTX 1080 has compute capability 6\.1.* needs 7\.5'):
        place_network(bundle, DetectorSettings(device='cuda'))


def test_settings_of_a_build_reach_it(bundle, tmp_path, monkeypatch):
    """build: never, the provider and the precision: a refusal names what there is not."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(placement, 'import_pycuda', lambda: None)
    pretend_tensorrt(monkeypatch)
    settings = DetectorSettings(engine='tensorrt', build='never', precision='fp32')
    refusal = r'engine: tensorrt is set, but there is no engine of tiny \(fp32, batch 1, tensorrt\)'
    with pytest.raises(EngineError, match=refusal + r'.*build: never.*--precision fp32'):
        place_network(bundle, settings)


def test_what_evaluate_is_told_of_the_gpu_reaches_stderr(bundle, monkeypatch, capsys):
    def open_on_gpu(bundle, precision, batch, policy, provider):
        policy.tell('warning', 'int8 is left out')

    monkeypatch.setattr(placement, '_open_on_gpu', open_on_gpu)
    pretend_tensorrt(monkeypatch)
    placement.open_engine(bundle, 'tensorrt')
    assert 'warning: int8 is left out' in capsys.readouterr().err
