"""The network that a CPU runs: one that passed the gate and is right here, and the fastest."""

from __future__ import annotations

import json
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
from held_bundle import hold_to
from tiny_network import paint, write_tiny_bundle

from cone_perception.engines.cpu import open as cpu
from cone_perception.engines.cpu import openvino as openvino_engine
from cone_perception.engines.cpu.open import (
    LEAST_GAIN,
    ROUNDS,
    CpuOrder,
    choose,
    open_fastest,
    open_network,
)
from cone_perception.engines.open import open_engine, place_network
from cone_perception.errors import EngineError
from cone_perception.model_card import Bundle, NetworkFile, file_sha256, read_bundle
from cone_perception.settings import DetectorSettings
from training.export import quantise

IN_BFLOAT16 = 'int8-uint8-bfloat16'


@pytest.fixture(autouse=True)
def cpu_with_bfloat16(monkeypatch):
    """Whatever this machine has: a network without INT8 is opened in float32 all the same."""
    monkeypatch.setattr(cpu, 'computes_bfloat16', lambda: True)
    opened = cpu.open_network

    def open_network(bundle, network, runtime, threads, arithmetic, streams, compiled, lone):
        engine = opened(bundle, network, runtime, threads, compiled=compiled)
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
    return written(Bundle(bundle.folder, replace(bundle.card, networks=networks, gate=gate)))


def written(bundle):
    """The bundle with its card in its folder, as another process reads it."""
    (bundle.folder / 'card.json').write_text(bundle.card.to_json(), encoding='utf-8')
    return bundle


def best(bundle, **words):
    return CpuOrder(bundle, precision='best', **{'threads': 1, **words})


def nobody(text):
    raise AssertionError(text)


def speeds(monkeypatch, medians_ms):
    """Says what each candidate takes; returns the candidates of each time that it was asked."""
    timed = []

    def examine(order, kept, cancelled):
        names = list(order.candidates())
        timed.append(names)
        fastest = min(names, key=medians_ms.get)
        return {'fastest': fastest, 'refused': [], 'lone': True, 'medians_ms': {}}

    monkeypatch.setattr(cpu, 'examine_apart', examine)
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
        (EVERYTHING, [], ['fp32-float']),
        (EVERYTHING[:1], [], ['int8-uint8']),
    ],
)
def test_only_what_passed_may_be_chosen(tmp_path, kinds, passed, expected):
    found = best(bundle_with(tmp_path, kinds, passed)).candidates()
    assert list(found) == expected


def test_cpu_without_bfloat16_is_not_offered_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, 'computes_bfloat16', lambda: False)
    found = best(bundle_with(tmp_path, EVERYTHING, ALL_PASSED)).candidates()
    assert {arithmetic for _, arithmetic in found.values()} == {'float32'}


@pytest.mark.parametrize('limit', ['AVX2', 'avx512_core_vnni'])
def test_cpu_that_is_limited_to_older_instructions_is_not_offered_it(monkeypatch, limit):
    monkeypatch.undo()
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', limit)
    assert not cpu.computes_bfloat16()


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
        engine = open_fastest(best(bundle), tmp_path / 'cache', nobody)
        assert engine.info.computes_in == computes_in
        engine.close()
    assert len(timed) == 1


def test_it_is_measured_for_all_that_it_depends_on(tmp_path, monkeypatch):
    """Two nodes with other threads keep a file each, and do not take turns to measure."""
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    timed = speeds(monkeypatch, dict.fromkeys(ALL_PASSED, 1.0))

    def open_with(bundle, threads, streams):
        order = best(bundle, threads=threads, streams=streams)
        open_fastest(order, tmp_path / 'cache', nobody).close()

    for threads, streams in ((1, 1), (2, 1), (2, 2), (2, 2), (1, 1), (2, 1)):
        open_with(bundle, threads, streams)
    assert len(timed) == 3
    for kept in (tmp_path / 'cache').iterdir():
        kept.write_text(json.dumps({'fastest': 'int8-uint8'})[:-3])
    open_with(bundle, 2, 2)
    assert len(timed) == 4
    bundle = bundle_with(tmp_path, EVERYTHING, ['int8-uint8', 'fp16-float'])
    open_with(bundle, 2, 2)
    assert timed[-1] == ['int8-uint8', 'fp16-float']
    monkeypatch.setattr(cpu, 'vector_instructions', lambda: ['avx2'])
    open_with(bundle, 2, 2)
    assert len(timed) == 6
    monkeypatch.setattr('openvino.__version__', '2099.1')
    open_with(bundle, 2, 2)
    assert len(timed) == 7
    monkeypatch.setattr('cone_perception.__version__', '99.0')
    open_with(bundle, 2, 2)
    assert len(timed) == 8
    open_with(Bundle(bundle.folder, replace(bundle.card, nms_iou=0.3)), 2, 2)
    assert len(timed) == 9


def rounds(*ratios, spread=0.0):
    """Times beside a network that takes 10 ms, as a busy machine stretches both of a round."""
    random = np.random.default_rng(0)
    busy = random.uniform(1, 8, (ROUNDS, 1))
    scatter = 1 + spread * random.standard_normal((ROUNDS, len(ratios)))
    return 10 * busy * np.hstack([np.ones((ROUNDS, 1)), np.array(ratios) * scatter])


@pytest.mark.parametrize(
    'ratios, spread, expected',
    [
        ((0.8, 0.7), 0.1, 'b'),
        ((0.7, 0.8), 0.1, 'a'),
        ((1.2, 1.1), 0.1, 'usual'),
        ((1 - LEAST_GAIN / 2,), 0.0, 'usual'),
        ((0.9,), 0.4, 'usual'),
        ((0.7, 0.5), 0.02, 'b'),
    ],
)
def test_only_a_network_that_is_surely_faster_takes_the_place_of_the_usual_one(
    ratios, spread, expected
):
    names = ['usual', 'a', 'b'][: len(ratios) + 1]
    assert choose(names, rounds(*ratios, spread=spread)) == expected


def test_cache_that_cannot_be_written_only_costs_the_next_start_time(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    timed = speeds(monkeypatch, dict.fromkeys(ALL_PASSED, 2.0) | {'fp16-float-bfloat16': 1.0})
    (tmp_path / 'cache').write_text('a file where the folder should be')
    for _ in range(2):
        engine = open_fastest(best(bundle), tmp_path / 'cache', nobody)
        assert engine.info.computes_in == 'bfloat16'
        engine.close()
    assert len(timed) == 2


@pytest.mark.parametrize(
    'judged, precision, warning',
    [
        (False, 'best', ''),
        (True, 'best', 'precision names no other'),
        (True, None, 'precision names no other'),
        (True, 'int8', 'precision asks for it'),
    ],
)
def test_int8_that_did_not_pass_is_not_measured_and_that_is_said(
    tmp_path, monkeypatch, capsys, judged, precision, warning
):
    bundle = bundle_with(tmp_path, EVERYTHING[:1], [])
    bundle = bundle if judged else Bundle(bundle.folder, replace(bundle.card, gate={}))
    timed = speeds(monkeypatch, {})
    text = f'int8 did not pass the gate: it is taken because {warning}.'
    warnings = []
    order = best(bundle) if precision == 'best' else CpuOrder(bundle, precision=precision)
    engine = open_fastest(order, tmp_path / 'cache', warnings.append)
    assert engine.info.computes_in == 'int8'
    engine.close()
    assert timed == []
    assert warnings == ([text] if judged else [])
    open_engine(bundle, precision='int8').close()
    assert ('warning: int8 did not pass' in capsys.readouterr().err) == judged


def test_cpu_without_openvino_says_what_is_missing(tmp_path, monkeypatch):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    monkeypatch.setattr(cpu, 'find_spec', lambda name: None)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.delitem(sys.modules, 'cone_perception.engines.cpu.openvino', raising=False)
    with pytest.raises(EngineError, match="the runtime of engine 'openvino' is not installed"):
        open_fastest(best(bundle), tmp_path / 'cache', nobody)


def test_process_of_its_own_measures_for_real(tmp_path):
    bundle = bundle_with(tmp_path, EVERYTHING, ['int8-uint8', 'fp16-float'])
    engine = open_fastest(best(bundle), tmp_path / 'cache', nobody)
    (kept,) = (tmp_path / 'cache').glob('*.json')
    measured = json.loads(kept.read_text())
    assert set(measured['medians_ms']) == {'int8-uint8', 'fp16-float'}
    assert np.min([*measured['medians_ms'].values()]) > 0
    assert measured['refused'] == []
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
    bundle = bundle_with(tmp_path, EVERYTHING, ['int8-uint8', 'fp16-float'])
    open_fastest(best(bundle), tmp_path / 'cache', nobody).close()
    (compiled,) = (tmp_path / 'cache').glob('*.blob')
    if damage:
        compiled.write_bytes(damage(compiled.read_bytes()))
    assert compilations == []
    engine = open_fastest(best(bundle), tmp_path / 'cache', nobody)
    assert len(compilations) == from_onnx
    from_file = open_engine(bundle, threads=1, precision=engine.info.precision)
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


needs_two_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason='one core has nothing to share'
)


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Opens the tiny network as a node does whose measuring said this."""
    monkeypatch.undo()
    bundle = bundle_with(tmp_path, [('fp32', 'float')], ['fp32-float'])
    engines = []

    def open_it(lone=True, **words):
        order = CpuOrder(bundle, **words)
        engine = order.open((bundle.card.networks[0], 'float32'), lone=lone)
        engines.append(engine)
        return engine

    yield open_it
    for engine in engines:
        engine.close()


@needs_two_cores
def test_run_by_itself_gets_all_threads_and_gives_the_same_answer(opened, compilations):
    engine = opened(streams=2)
    assert engine.lone is not engine
    assert len(compilations) == 1  # the other is made of what it was compiled to
    noise = np.random.default_rng(2).integers(0, 256, (1, 384, 640, 3), np.uint8)
    expected = engine.run(noise)
    with ThreadPoolExecutor(6) as pool:
        runs = [way.run for way in (engine, engine.lone, engine)] * 20
        answers = list(pool.map(lambda run: run(noise), runs))
    for answer in answers:
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    'words', [{'streams': 1}, {'streams': 2, 'threads': 1}, {'streams': 2, 'lone': False}]
)
def test_nothing_more_is_compiled_where_a_run_by_itself_would_not_gain(opened, words):
    engine = opened(**words)
    assert engine.lone is engine


@needs_two_cores
def test_closing_frees_both(opened):
    engine = opened(streams=2)
    lone = engine.lone
    engine.close()
    for closed in (engine, lone):
        with pytest.raises(AttributeError):
            closed.run(np.zeros((1, 384, 640, 3), np.uint8))
    engine.close = lambda: None


@needs_two_cores
@pytest.mark.parametrize('times_faster, lone', [(1.5, True), (1.0, True), (0.7, False)])
def test_run_by_itself_gets_all_threads_unless_that_is_surely_slower(
    tmp_path, monkeypatch, times_faster, lone
):
    bundle = bundle_with(tmp_path, EVERYTHING, ['int8-uint8', 'fp16-float'])
    order = best(bundle, streams=2)
    lone_ms = np.array([10.0, 7.0])
    rows = np.stack([lone_ms, lone_ms * times_faster], axis=1).reshape(1, 4).repeat(ROUNDS, 0)
    monkeypatch.setattr(cpu, 'measure_rounds', lambda works, rounds: rows)
    found = cpu.examine(str(bundle.folder), str(tmp_path / 'kept.json'), None, **order.words)
    assert found['fastest'] == 'fp16-float'
    assert found['lone'] is lone
    assert found['medians_ms']['fp16-float'] == [7.0, pytest.approx(7.0 * times_faster)]
    opened_with = []
    monkeypatch.setattr(cpu, 'open_network', lambda *args: opened_with.append(args))
    monkeypatch.setattr(cpu, 'examine_apart', lambda *_: found)
    open_fastest(order, tmp_path / 'cache', nobody)
    assert opened_with[0][-1] is lone


@needs_two_cores
def test_network_that_is_wrong_only_by_itself_may_not_drive(tmp_path, monkeypatch):
    bundle = held_bundle(tmp_path, SEVEN_BITS)
    monkeypatch.undo()
    lone_of = cpu.lone_of

    def wrong(engine):
        lone = lone_of(engine)
        assert lone is not engine
        monkeypatch.setattr(lone, 'run', lambda pictures: 0 * engine.run(pictures))
        return lone

    monkeypatch.setattr(cpu, 'lone_of', wrong)
    words = CpuOrder(bundle, precision='fp32', streams=2).words
    found = cpu.examine(str(bundle.folder), str(tmp_path / 'kept.json'), None, **words)
    assert found['fastest'] is None
    ((name, why),) = found['refused']
    assert name == 'fp32-float'
    assert 'cones of the reference is found' in why


def test_stop_ends_the_measuring(tmp_path):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    with pytest.raises(EngineError, match='measuring of the CPU was stopped'):
        open_fastest(best(bundle), tmp_path / 'cache', nobody, cancelled=lambda: True)
    assert not (tmp_path / 'cache').exists()


def test_measuring_that_fails_says_why_and_what_to_do(tmp_path):
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    (bundle.folder / 'card.json').unlink()
    with pytest.raises(
        EngineError, match=r'another precision\. It last said: .*card\.json does not exist'
    ):
        open_fastest(best(bundle), tmp_path / 'cache', nobody)


EIGHT_BITS, SEVEN_BITS = 127, 63


@pytest.fixture
def cpu_without_vnni(monkeypatch, tmp_path):
    """OpenVINO sees a CPU that ends with AVX2, in processes that begin now."""
    if platform.machine() != 'x86_64':
        pytest.skip('only x86 CPUs add in 16 bits')
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', 'AVX2')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))


def held_bundle(tmp_path, largest_weight, judged=True):
    """INT8 and FP32 of a tiny network, with FP32's answers."""
    bundle = bundle_with(tmp_path, [('int8', 'uint8'), ('fp32', 'float')], ['int8-uint8'])
    pictures = np.full((2, bundle.card.height_px, bundle.card.width_px, 3), 114, np.uint8)
    for index, picture in enumerate(pictures):
        for place in range(4):
            paint(picture, 'unknown_cone', 64 * place, 64 * index, 32, 32)
    _, fp32 = bundle.card.networks
    bundle = hold_to(bundle, open_network(bundle, fp32, 'onnxruntime'), pictures)
    network, file = onnx.load(bundle.folder / fp32.file), bundle.folder / 'int8.onnx'
    next(node for node in network.graph.node if node.op_type == 'Conv').name = 'conv'
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(quantise.LARGEST_WEIGHT, 'uint8', largest_weight)
        onnx.save(quantise.quantise(network, {'conv': 1 / 127}, 'uint8'), file)
    networks = NetworkFile(file.name, file_sha256(file), 'int8', 'uint8'), fp32
    gate = bundle.card.gate if judged else {}
    return written(Bundle(bundle.folder, replace(bundle.card, networks=networks, gate=gate)))


@pytest.mark.parametrize('judged', [True, False])
def test_network_that_saturates_here_is_left_out_at_every_start(tmp_path, cpu_without_vnni, judged):
    """The second start only reads of it."""
    bundle = held_bundle(tmp_path, EIGHT_BITS, judged)
    for _ in range(2):
        placed = place_network(bundle, DetectorSettings(device='cpu'))
        placed.engine.close()
        assert placed.engine.info.precision == 'fp32'
        (text,) = [text for text in placed.warnings if IN_BFLOAT16 not in text]
        assert text.startswith('int8-uint8 does not answer as FP32 does: ')
        assert text.endswith('fp32-float is used instead.')
        assert len(list(tmp_path.rglob('cpu-*.json'))) == 1


def test_network_with_7_bit_weights_drives_without_a_word(tmp_path, cpu_without_vnni):
    placed = place_network(held_bundle(tmp_path, SEVEN_BITS, False), DetectorSettings(device='cpu'))
    placed.engine.close()
    assert placed.engine.info.precision == 'int8'
    assert placed.warnings == ()


def test_precision_that_is_named_is_held_to_fp32_too(tmp_path, cpu_without_vnni):
    bundle = held_bundle(tmp_path, EIGHT_BITS)
    with pytest.raises(EngineError, match='no network of tiny may drive on this CPU: int8-uint8'):
        place_network(bundle, DetectorSettings(device='cpu', precision='int8'))
    with pytest.raises(EngineError, match='no network of tiny may drive on this CPU: int8-uint8'):
        open_engine(bundle)  # as `evaluate` does
    placed = place_network(bundle, DetectorSettings(engine='onnxruntime', precision='fp32'))
    assert placed.engine.info.precision == 'fp32'
    placed.engine.close()


def test_damaged_reference_is_named(tmp_path):
    bundle = held_bundle(tmp_path, SEVEN_BITS)
    (bundle.folder / 'reference.npz').write_bytes(b'half')
    with pytest.raises(EngineError, match=r'reference\.npz is not the file that the card lists'):
        open_fastest(best(bundle), tmp_path / 'cache', nobody)


def test_detect_takes_the_network_of_evaluate_unless_told(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    bundle = bundle_with(tmp_path, EVERYTHING, ALL_PASSED)
    timed = speeds(monkeypatch, dict.fromkeys(ALL_PASSED, 10.0) | {'fp16-float': 1.0})
    settings = DetectorSettings(device='cpu')
    for measure, precision in ((False, 'int8'), (True, 'fp16')):
        placed = place_network(bundle, settings, measure=measure)
        assert placed.engine.info.precision == precision
        placed.engine.close()
    assert len(timed) == 1
