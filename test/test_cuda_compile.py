"""The kernels really compile, for every GPU from Turing on, and are compiled once."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cone_perception.engines.cuda.compile import (
    KernelOptions,
    Nvrtc,
    find_compiler,
    kernel_source,
    load_kernels,
)
from cone_perception.errors import EngineError

ARCHITECTURES = (75, 86, 89, 90, 120)
KERNELS = (b'letterbox', b'select_anchors', b'select_boxes', b'suppress')

needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec('cuda') is None or importlib.util.find_spec('nvidia') is None,
    reason='needs cuda-bindings and nvidia-cuda-nvrtc',
)


@dataclass
class CountingCompiler:
    version: str = 'counting 1'
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def compile(self, source: str, arguments: tuple[str, ...]) -> bytes:
        self.asked.append(arguments)
        return b'code for ' + ' '.join(arguments).encode()


@needs_nvrtc
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_kernels_compile_for_architecture(architecture, tmp_path):
    halves = architecture != 75
    code = load_kernels(KernelOptions(architecture, halves, halves), tmp_path, Nvrtc())
    assert code[:4] == b'\x7fELF'
    assert all(name in code for name in KERNELS)


@needs_nvrtc
def test_compiler_error_is_told_with_line():
    with pytest.raises(EngineError, match=r'(?s)sm_89.*cone_perception\.cu\(1\)'):
        Nvrtc().compile('int x = ;', KernelOptions(89).arguments)


def test_kernels_are_compiled_once_per_option_and_compiler(tmp_path):
    compiler = CountingCompiler()
    first = load_kernels(KernelOptions(89), tmp_path, compiler)
    assert load_kernels(KernelOptions(89), tmp_path, compiler) == first
    assert len(compiler.asked) == 1
    load_kernels(KernelOptions(86), tmp_path, compiler)
    load_kernels(KernelOptions(89, half_input=True), tmp_path, compiler)
    compiler.version = 'counting 2'
    load_kernels(KernelOptions(89), tmp_path, compiler)
    assert len(compiler.asked) == 4


def test_damaged_cache_is_compiled_again(tmp_path):
    compiler = CountingCompiler()
    code = load_kernels(KernelOptions(89), tmp_path, compiler)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-3])
    assert load_kernels(KernelOptions(89), tmp_path, compiler) == code
    assert len(compiler.asked) == 2


def test_cache_that_cannot_be_written_is_no_fault(tmp_path):
    blocked = tmp_path / 'file'
    blocked.write_text('')
    assert load_kernels(KernelOptions(89), blocked / 'cache', CountingCompiler())


def test_gpu_older_than_turing_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r'7\.0.*7\.5'):
        load_kernels(KernelOptions(70), tmp_path, CountingCompiler())


def test_source_needs_no_include():
    assert '#include' not in kernel_source()


def test_missing_compiler_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cuda.bindings', None)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    monkeypatch.setattr('cone_perception.engines.cuda.compile.TOOLKIT_NVCC', Path('/nowhere'))
    with pytest.raises(EngineError, match='pip install nvidia-cuda-nvrtc'):
        find_compiler()
