"""The kernels really compile, for every GPU from Turing on, and are compiled once."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cone_perception.engines.cuda.compile import (
    Nvrtc,
    compiler_arguments,
    find_compiler,
    kernel_source,
    load_kernels,
)
from cone_perception.errors import EngineError
from cone_perception.files import cache_folder

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))


@needs_nvrtc
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_kernels_compile_for_architecture(architecture):
    halves = architecture != 75
    code = load_kernels(compiler_arguments(architecture, halves, halves), Nvrtc())
    assert code[:4] == b'\x7fELF'
    assert all(name in code for name in KERNELS)


@needs_nvrtc
def test_compiler_error_is_told_with_line():
    with pytest.raises(EngineError, match=r'(?s)sm_89.*cone_perception\.cu\(1\)'):
        Nvrtc().compile('int x = ;', compiler_arguments(89))


def test_kernels_are_compiled_once_per_option_and_compiler():
    compiler = CountingCompiler()
    first = load_kernels(compiler_arguments(89), compiler)
    assert load_kernels(compiler_arguments(89), compiler) == first
    assert len(compiler.asked) == 1
    load_kernels(compiler_arguments(86), compiler)
    load_kernels(compiler_arguments(89, half_input=True), compiler)
    compiler.version = 'counting 2'
    load_kernels(compiler_arguments(89), compiler)
    assert len(compiler.asked) == 4


def test_damaged_cache_is_compiled_again():
    compiler = CountingCompiler()
    code = load_kernels(compiler_arguments(89), compiler)
    (kept,) = cache_folder('kernels').iterdir()
    kept.write_bytes(kept.read_bytes()[:-3])
    assert load_kernels(compiler_arguments(89), compiler) == code
    assert len(compiler.asked) == 2


def test_cache_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch):
    blocked = tmp_path / 'file'
    blocked.write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(blocked))
    assert load_kernels(compiler_arguments(89), CountingCompiler())


def test_source_needs_no_include():
    assert '#include' not in kernel_source()


def test_missing_compiler_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cuda.bindings', None)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    monkeypatch.setattr('cone_perception.engines.cuda.compile.TOOLKIT_NVCC', Path('/nowhere'))
    with pytest.raises(EngineError, match='pip install nvidia-cuda-nvrtc'):
        find_compiler()
