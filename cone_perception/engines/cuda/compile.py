"""Kernels (.cu) -> machine code for one architecture, by NVRTC or nvcc, kept in a cache."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cone_perception.engines.kept import keep, read_kept
from cone_perception.errors import EngineError
from cone_perception.files import cache_folder

SOURCES = ('request.cuh', 'letterbox.cu', 'decode.cu')
TOOLKIT_NVCC = Path('/usr/local/cuda/bin/nvcc')
"""NVIDIA's installer puts it here, which is on nobody's PATH by default."""


def compiler_arguments(
    architecture: int, half_input: bool = False, half_output: bool = False
) -> tuple[str, ...]:
    """Arguments of the compiler. Without fused multiply-add, the sums are those of the CPU.

    architecture: compute capability of the GPU, 89 for 8.9.
    half_input, half_output: whether the network takes and gives float16 instead of float32.
    """
    halves = {'-DINPUT_HALF': half_input, '-DOUTPUT_HALF': half_output}
    asked = (name for name, half in halves.items() if half)
    return (f'-arch=sm_{architecture}', '-std=c++17', '--fmad=false', *asked)


def kernel_source() -> str:
    """The kernels as one text that needs no include."""
    text = '\n'.join(Path(__file__).with_name(name).read_text(encoding='utf-8') for name in SOURCES)
    return re.sub(r'^#(include "request\.cuh"|pragma once)$', '', text, flags=re.MULTILINE)


def load_kernels(arguments: tuple[str, ...], compiler: Nvrtc | Nvcc) -> bytes:
    """The kernels' machine code, from the cache or compiled now. Raises EngineError."""
    source = kernel_source()
    key = hashlib.sha256('\0'.join((source, *arguments, compiler.version)).encode())
    path = cache_folder('kernels') / f'{key.hexdigest()}.cubin'
    code = read_kept(path)
    if not code:
        code = compiler.compile(source, arguments)
        keep(path, code)
    return code


def find_compiler() -> Nvrtc | Nvcc:
    """NVRTC where its Python packages are, else nvcc. Raises EngineError when there is neither."""
    try:
        return Nvrtc()
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: the library is not found
        nvcc = Path(shutil.which('nvcc') or TOOLKIT_NVCC)
        if nvcc.is_file():
            return Nvcc(str(nvcc))
        raise EngineError(
            f'no compiler for the GPU kernels: NVRTC is not there ({error}), and no nvcc. '
            "Install it with: pip install nvidia-cuda-nvrtc 'cuda-bindings>=13'"
        ) from error


def _refusal(compiler: str, arguments: tuple[str, ...], said: str) -> EngineError:
    options = ' '.join(arguments)
    return EngineError(f'{compiler} does not compile the GPU kernels ({options}): {said}')


class Nvrtc:
    """NVIDIA's runtime compiler, of cuda-bindings and nvidia-cuda-nvrtc. version: 'NVRTC 13.0'."""

    def __init__(self) -> None:
        from cuda.bindings import nvrtc

        self._nvrtc = nvrtc
        major, minor = self._checked(nvrtc.nvrtcVersion())
        self.version = f'NVRTC {major}.{minor}'

    def compile(self, source: str, arguments: tuple[str, ...]) -> bytes:
        """Machine code (a cubin) of a CUDA source. Raises EngineError with the compiler's words."""
        nvrtc = self._nvrtc
        (program,) = self._checked(
            nvrtc.nvrtcCreateProgram(source.encode(), b'cone_perception.cu', 0, [], [])
        )
        try:
            encoded = [argument.encode() for argument in arguments]
            (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
            if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
                (size,) = self._checked(nvrtc.nvrtcGetProgramLogSize(program))
                log = b' ' * size
                self._checked(nvrtc.nvrtcGetProgramLog(program, log))
                said = log.decode(errors='replace').strip('\0 \n') or str(result)
                raise _refusal(self.version, arguments, said)
            (size,) = self._checked(nvrtc.nvrtcGetCUBINSize(program))
            code: bytes = b' ' * size
            self._checked(nvrtc.nvrtcGetCUBIN(program, code))
            return code
        finally:
            nvrtc.nvrtcDestroyProgram(program)

    def _checked(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        result, *values = answer
        if result != self._nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise EngineError(f'NVRTC failed: {result}')
        return tuple(values)


class Nvcc:
    """The CUDA toolkit's compiler, as Nvrtc; needs a C++ compiler beside it."""

    def __init__(self, path: str) -> None:
        self._path = path
        said = subprocess.run([path, '--version'], capture_output=True, text=True, check=False)
        self.version = f'nvcc {said.stdout.strip().splitlines()[-1] if said.stdout else "?"}'

    def compile(self, source: str, arguments: tuple[str, ...]) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            written, code = Path(folder) / 'cone_perception.cu', Path(folder) / 'kernels.cubin'
            written.write_text(source, encoding='utf-8')
            command = [self._path, *arguments, '-cubin', '-o', str(code), str(written)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise _refusal(self._path, arguments, (done.stderr or done.stdout).strip())
            return code.read_bytes()
