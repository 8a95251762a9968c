"""benchmarks/gpu.py runs to its end, on a GPU made of CPU memory; its times mean nothing there."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
from kernels_on_cpu import compile_kernels
from pycuda_on_cpu import HostDriver

from cone_perception.engines import check
from cone_perception.engines.cuda import device

BENCHMARKS = str(Path(__file__).parents[1] / 'benchmarks')


@pytest.fixture(scope='module')
def gpu():
    """Import it as a script is seen: its folder comes first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module('gpu')


@pytest.mark.slow
def test_every_measurement_is_written_and_right(gpu, tmp_path, monkeypatch, capsys):
    driver = HostDriver(compile_kernels(tmp_path, half=False))
    pycuda = types.ModuleType('pycuda')
    pycuda.VERSION_TEXT, pycuda.driver = '2026.1', driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'pycuda', pycuda)
    monkeypatch.setitem(sys.modules, 'pycuda.driver', driver)  # type: ignore[misc]
    driver.put_in_place(monkeypatch)
    monkeypatch.setattr(gpu, 'find_compiler', device.find_compiler)
    for module in (gpu, check):
        monkeypatch.setattr(module, 'WARM_UP_RUNS', 1)
    monkeypatch.setattr(gpu, 'COPY_RATIO_LIMIT', 1e9)
    monkeypatch.setattr(gpu, 'GROWTH_LIMIT_BYTES', 1e9)
    out = tmp_path / 'gpu.json'
    status = gpu.main(['--out', str(out), '--frames', '3', '--loads', '2', '--runs', '2'])
    assert capsys.readouterr().err == ''
    assert status == 0
    results = json.loads(out.read_text())
    assert results['machine']['launches'] == 'one CUDA graph'
    assert results['problems'] == []
    assert results['accuracy']['boxes']['count'] > 100
    assert len(results['frames']) == 6
    assert {'horizon', 'strip'} <= {case.split()[-1] for case in results['accuracy']['letterbox']}
    assert (len(driver.alive), driver.pushed, driver.contexts) == (0, 0, 0)


def test_what_is_not_as_it_must_be_is_said(gpu):
    grown = {'host_growth_bytes': 1 << 30, 'device_growth_bytes': 0}
    results = {
        'accuracy': {
            'letterbox': {'bgr8': {'worst_grey_levels': 2.0}},
            'boxes': {'difference': '2 cones there and 1 here'},
        },
        'stations': {'upload_and_letterbox_over_copy': 1.6},
        'leaks': {'frames': grown, 'loads': dict.fromkeys(grown, 0)},
    }
    assert len(gpu.find_problems(results)) == 4


@pytest.mark.skipif(importlib.util.find_spec('pycuda') is not None, reason='pycuda is here')
def test_without_a_gpu_it_says_what_is_missing(gpu, capsys):
    assert gpu.main(['--frames', '1']) == 1
    assert 'error: pycuda cannot be imported' in capsys.readouterr().err
