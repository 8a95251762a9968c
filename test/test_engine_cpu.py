"""Which network a CPU runs: what passed the gate, and is fastest there."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_network import write_tiny_bundle

from cone_perception.engines.cpu import fastest as cpu
from cone_perception.engines.cpu import openvino as openvino_engine
from cone_perception.engines.cpu.fastest import driving_candidates, open_fastest
from cone_perception.engines.cpu.open import open_network
from cone_perception.engines.open import open_engine
from cone_perception.errors import EngineError
from cone_perception.model_card import Bundle, read_bundle

IN_BFLOAT16 = 'int8-uint8-bfloat16'


@pytest.fixture(autouse=True)
def cpu_with_bfloat16(monkeypatch):
    """Whatever this machine has: a network without INT8 is opened in float32 all the same."""
    monkeypatch.setattr(cpu, 'computes_bfloat16', lambda: True)
    opened = cpu.open_network

    def open_network(bundle, network, name, threads, arithmetic, streams, compiled):
        engine = opened(bundle, network, name, threads, compiled=compiled)
        engine.info = replace(engine.info, arithmetic=arithmetic)
        return engine

    monkeypatch.setattr(cpu, 'open_network', open_network)


def bundle_with(tmp_path, kinds, passed):
    """Networks of these (precision, encoding), and a gate that these kinds passed."""
    bundle = read_bundle(write_tiny_bundle(tmp_path / 'tiny'))
    (network,) = bundle.card.networks
    networks = tuple(replace(network, precision=p, encoding=e) for p, e in kinds)
    figures = {kind: {'passed': True} for kind in passed}
    gate = {'passed': True, 'figures': figures}
    return Bundle(bundle.folder, replace(bundle.card, networks=networks, gate=gate))


def speeds(monkeypatch, medians_ms):
    """Says what each candidate takes; returns the candidates of each time that it was asked."""
    timed = []

    def measure(bundle, batch, threads, streams, compiled, cancelled):
        names = [candidate.name for candidate in driving_candidates(bundle, batch)]
        timed.append(names)
        return {'fastest': min(names, key=medians_ms.get)}

    monkeypatch.setattr(cpu, 'measure_apart', measure)
    return timed


EVERYTHING = [('int8', 'uint8'), ('int8', 'int8'), ('fp16', 'float'), ('fp32', 'float')]
ALL_PASSED = ['int8-uint8', 'int8-int8', IN_BFLOAT16, 'fp16-float', 'fp16-float-bfloat16']


@pytest.mark.parametrize(
    'kinds, passed, expected',
    [
        (
            EVERYTHING,
            ALL_PASSED,
            ['int8-uint8', 'fp16-float', IN_BFLOAT16, 'fp16-float-bfloat16'],
        ),
        (EVERYTHING, ['int8-uint8', 'fp16-float'], ['int8-uint8', 'fp16-float']),
        (EVERYTHING[:1], ['int8-uint8', IN_BFLOAT16], ['int8-uint8', IN_BFLOAT16]),
        ([EVERYTHING[0], EVERYTHING[3]], [], ['fp32-float']),
        (EVERYTHING[:1], [], []),
    ],
)
def test_only_what_passed_may_be_chosen(tmp_path, kinds, passed, expected):
    found = driving_candidates(bundle_with(tmp_path, kinds, passed), 1)
    assert [candidate.name for candidate in found] == expected


def test_cpu_without_bfloat16_is_not_offered_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, 'computes_bfloat16', lambda: False)
    found = driving_candidates(bundle_with(tmp_path, EVERYTHING, ALL_PASSED), 1)
    assert {candidate.arithmetic for candidate in found} == {'float32'}


@pytest.mark.parametrize(
    'fastest, computes_in',
    [
        ('int8-uint8', 'int8'),
        ('fp16-float', 'fp16'),
        (IN_BFLOAT16, 'int8 and bfloat16'),
        ('fp16-float-bfloat16', 'bfloat16'),
    ],
)
def test_the_fastest_is_opened_and_remembered(tmp_path, monkeypatch, fastest, computes_in):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    timed = speeds(monkeypatch, dict.fromkeys(ALL_PASSED, 10.0) | {fastest: 9.0})
    for _ in range(2):
        engine = open_fastest(bundle, 1, 1, 1, tmp_path / 'cache')
        assert engine.info.computes_in == computes_in
        engine.close()
    assert len(timed) == 1


def test_it_is_measured_again_when_what_it_depends_on_changes(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    timed = speeds(monkeypatch, dict.fromkeys(ALL_PASSED, 1.0))
    for threads, streams in ((1, 1), (2, 1), (2, 2), (2, 2)):
        open_fastest(bundle, 1, threads, streams, tmp_path / 'cache').close()
    assert len(timed) == 3
    (kept,) = (tmp_path / 'cache').iterdir()
    kept.write_text(json.dumps({'fastest': 'int8-uint8'})[:-3])
    open_fastest(bundle, 1, 2, 2, tmp_path / 'cache').close()
    assert len(timed) == 4
    bundle = bundle_with(tmp_path, EVERYTHING, ['int8-uint8', 'fp16-float'])
    open_fastest(bundle, 1, 2, 2, tmp_path / 'cache').close()
    assert timed[-1] == ['int8-uint8', 'fp16-float']


def test_cache_that_cannot_be_written_only_costs_the_next_start_time(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    timed = speeds(monkeypatch, dict.fromkeys(ALL_PASSED, 2.0) | {'fp16-float-bfloat16': 1.0})
    (tmp_path / 'cache').write_text('a file where the folder should be')
    for _ in range(2):
        engine = open_fastest(bundle, 1, 1, 1, tmp_path / 'cache')
        assert engine.info.computes_in == 'bfloat16'
        engine.close()
    assert len(timed) == 2


def test_model_that_was_never_judged_is_not_measured(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path, EVERYTHING[:1], [])
    timed = speeds(monkeypatch, {})
    engine = open_fastest(bundle, 1, 1, 1, tmp_path / 'cache')
    assert engine.info.computes_in == 'int8'
    engine.close()
    assert timed == []


def test_cpu_without_openvino_says_what_is_missing(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    monkeypatch.setattr(cpu, 'find_spec', lambda name: None)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.delitem(sys.modules, 'cone_perception.engines.cpu.openvino', raising=False)
    with pytest.raises(EngineError, match="the runtime of engine 'openvino' is not installed"):
        open_fastest(bundle, 1, 1, 1, tmp_path / 'cache')


def written(bundle):
    """The bundle with its card in its folder, as another process reads it."""
    (bundle.folder / 'card.json').write_text(bundle.card.to_json(), encoding='utf-8')
    return bundle


def test_process_of_its_own_measures_for_real(tmp_path):
    bundle = written(bundle_with(tmp_path, EVERYTHING, ['int8-uint8', 'fp16-float']))
    engine = open_fastest(bundle, 1, 1, 1, tmp_path / 'cache')
    (kept,) = (tmp_path / 'cache').glob('*.json')
    measured = json.loads(kept.read_text())
    assert set(measured['medians_ms']) == {'int8-uint8', 'fp16-float'}
    assert min(measured['medians_ms'].values()) > 0
    assert engine.info.precision == measured['fastest'].split('-')[0]
    engine.close()


@pytest.fixture
def compilations(monkeypatch):
    """The networks that were read from their ONNX files in this process."""
    read = []
    compile_network = openvino_engine._compile

    def counted(core, path, *rest):
        read.append(path.name)
        return compile_network(core, path, *rest)

    monkeypatch.setattr(openvino_engine, '_compile', counted)
    return read


def flip_a_bit(content):
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize(
    'damage, from_onnx',
    [(None, 0), (flip_a_bit, 1), (lambda content: content[:99], 1), (lambda content: b'', 1)],
)
def test_what_was_measured_is_opened_as_it_was_compiled(tmp_path, compilations, damage, from_onnx):
    bundle = written(bundle_with(tmp_path, EVERYTHING, ['int8-uint8', 'fp16-float']))
    open_fastest(bundle, 1, 1, 1, tmp_path / 'cache').close()
    (compiled,) = (tmp_path / 'cache').glob('*.blob')
    if damage:
        compiled.write_bytes(damage(compiled.read_bytes()))
    assert compilations == []
    engine = open_fastest(bundle, 1, 1, 1, tmp_path / 'cache')
    assert len(compilations) == from_onnx
    from_file = open_engine(bundle, 'openvino', threads=1, precision=engine.info.precision)
    assert engine.info == replace(from_file.info, class_names=engine.info.class_names)
    height_px, width_px = bundle.card.height_px, bundle.card.width_px
    noise = np.random.default_rng(1).integers(0, 256, (1, height_px, width_px, 3), np.uint8)
    assert np.array_equal(engine.run(noise), from_file.run(noise))
    for each in (engine, from_file):
        each.close()


def test_what_openvino_refuses_is_compiled_from_the_file(tmp_path, compilations):
    bundle = bundle_with(tmp_path, EVERYTHING, [])
    (network, *_) = bundle.card.networks
    engine = open_network(bundle, network, 'openvino', threads=1)
    cut_off = engine.export()[:99]
    engine.close()
    open_network(bundle, network, 'openvino', threads=1, compiled=cut_off).close()
    assert compilations == [network.file] * 2


def test_stop_ends_the_measuring(tmp_path):
    bundle = written(bundle_with(tmp_path, EVERYTHING, ALL_PASSED))
    with pytest.raises(EngineError, match='was being measured when it was stopped'):
        open_fastest(bundle, 1, 1, 1, tmp_path / 'cache', cancelled=lambda: True)
    assert not (tmp_path / 'cache').exists()


def test_measuring_that_fails_says_why_and_what_to_do(tmp_path):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    (bundle.folder / 'card.json').unlink()
    with pytest.raises(EngineError, match=r'card\.json does not exist.*precision'):
        open_fastest(bundle, 1, 1, 1, tmp_path / 'cache')
