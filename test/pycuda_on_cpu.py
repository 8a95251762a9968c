"""pycuda.driver and cuda.bindings.driver as far as the engine uses them, in the CPU's memory.

Names, arguments and types are those of pycuda 2026.1 (src/wrapper/wrap_cudadrv.cpp) and of
cuda-bindings 13. Work is done at once, kernels by g++; during a capture it is kept for the replay.
It counts what is allocated and fails where a test asks it to.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


class Error(Exception):
    pass


class MemoryError(Error):  # noqa: A001
    pass


class LogicError(Error):
    pass


class event_flags(IntFlag):  # noqa: N801
    DEFAULT, BLOCKING_SYNC, DISABLE_TIMING = 0, 1, 2


class CUresult(IntEnum):
    CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY = 0, 1, 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class HostDriver:
    """Stands for the module pycuda.driver, and as `bindings` for cuda.bindings.driver."""

    Error, MemoryError, LogicError, event_flags = Error, MemoryError, LogicError, event_flags

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.alive: dict[int, Any] = {}
        self.allocations = 0
        self.contexts = 0
        self.pushed = 0
        self.failing: list[tuple[str, Exception]] = []
        self.broken: Exception | None = None
        self.kept: list[Callable[[], None]] | None = None
        self.replays = 0
        self.uploaded_bytes: list[int] = []
        driver = self

        class Context:
            def push(self) -> None:
                driver.pushed += 1

            def pop(self) -> None:
                driver.fail('pop')
                driver.pushed -= 1

            def detach(self) -> None:
                driver.contexts -= 1

            @staticmethod
            def synchronize() -> None:
                driver.fail('synchronize')

            @staticmethod
            def get_device() -> Device:
                driver.alive_in_context()
                return Device(0)

        class Device:
            def __init__(self, ordinal: int) -> None:
                assert ordinal == 0

            def name(self) -> str:
                return 'a GPU in this computer'

            def compute_capability(self) -> tuple[int, int]:
                return 8, 9

            def retain_primary_context(self) -> Context:
                driver.contexts += 1
                return Context()

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                driver.alive_in_context()
                self.handle = 7 + flags

            def synchronize(self) -> None:
                driver.fail('stream.synchronize')

            def wait_for_event(self, event: Event) -> None:
                assert isinstance(event, Event)

        class Event:
            def __init__(self, flags: int = 0) -> None:
                driver.alive_in_context()
                assert int(flags) == 3

            def record(self, stream: Stream | None = None) -> Event:
                driver.fail('record')
                return self

            def query(self) -> bool:
                driver.fail('event.query')
                return True

            def synchronize(self) -> Event:
                driver.fail('event.synchronize')
                return self

        class Allocation:
            def __init__(self, shape: Any, kind: Any = np.uint8) -> None:
                form = tuple(np.atleast_1d(shape).tolist())
                size = int(np.prod(form)) * np.dtype(kind).itemsize
                self.memory = ctypes.create_string_buffer(size)
                driver.alive[id(self)] = self
                driver.allocations += 1
                self._array = {'shape': form, 'typestr': np.dtype(kind).str, 'version': 3}

            def free(self) -> None:
                driver.alive_in_context()
                del driver.alive[id(self)]

        class DeviceAllocation(Allocation):
            def __int__(self) -> int:
                assert id(self) in driver.alive, 'used after it was freed'
                return ctypes.addressof(self.memory)

        class PagelockedHostAllocation(Allocation):
            @property
            def __array_interface__(self) -> dict[str, Any]:
                return {'data': (ctypes.addressof(self.memory), False), **self._array}

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event
        self._device_allocation = DeviceAllocation
        self._host_allocation = PagelockedHostAllocation

    def put_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give it to the engine, with kernels that need not be compiled."""
        cuda, compiler = 'cone_perception.engines.cuda', SimpleNamespace(version='g++')
        monkeypatch.setattr(f'{cuda}.device.import_pycuda', lambda: self)
        monkeypatch.setattr(f'{cuda}.slot.import_bindings', lambda: _Bindings(self))
        monkeypatch.setattr(f'{cuda}.device.load_kernels', lambda arguments, compiler: b'code')
        monkeypatch.setattr(f'{cuda}.device.find_compiler', lambda: compiler)

    def alive_in_context(self) -> None:
        assert self.pushed > 0, 'no currently active context?'

    def fail(self, call: str) -> None:
        """Raise what a test asked for at this call; a broken context fails everything."""
        self.alive_in_context()
        if self.broken is not None:
            raise self.broken
        if self.failing and self.failing[0][0] == call:
            raise self.failing.pop(0)[1]

    def init(self) -> None:
        pass

    def mem_alloc(self, size: int) -> Any:
        self.fail('mem_alloc')
        return self._device_allocation(size)

    def pagelocked_empty(self, shape: Any, dtype: Any, order: str = 'C', mem_flags: int = 0) -> Any:
        self.fail('pagelocked_empty')
        return np.asarray(self._host_allocation(shape, dtype))

    def memcpy_htod_async(self, dest: Any, src: Any, stream: Any = None) -> None:
        self.fail('memcpy_htod_async')
        assert src.flags.c_contiguous
        self.uploaded_bytes.append(src.nbytes)
        assert self.kept is None
        ctypes.memmove(int(dest), src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(self, dest: Any, src: Any, stream: Any = None) -> None:
        self.fail('memcpy_dtoh_async')
        at, size, source = dest.ctypes.data, dest.nbytes, int(src)
        self.queue(lambda: ctypes.memmove(at, source, size))

    def memcpy_dtoh(self, dest: Any, src: Any) -> None:
        self.memcpy_dtoh_async(dest, src)

    def memcpy_dtod_async(self, dest: Any, src: Any, size: int, stream: Any = None) -> None:
        self.fail('memcpy_dtod_async')
        to, source = int(dest), int(src)
        self.queue(lambda: ctypes.memmove(to, source, size))

    def to_device(self, bf_obj: Any) -> Any:
        block = self.mem_alloc(bf_obj.nbytes)
        ctypes.memmove(int(block), bf_obj.ctypes.data, bf_obj.nbytes)
        return block

    def mem_get_info(self) -> tuple[int, int]:
        self.alive_in_context()
        return 1 << 30, 1 << 33

    def get_driver_version(self) -> int:
        return 13000

    def get_version(self) -> tuple[int, int, int]:
        return 13, 0, 0

    def queue(self, work: Callable[[], object]) -> None:
        """Do it now, or keep it for the replay of the graph that is being captured."""
        if self.kept is None:
            work()
        else:
            self.kept.append(work)

    def module_from_buffer(self, buffer: bytes) -> Any:
        assert buffer
        return SimpleNamespace(get_function=lambda name: _Function(self, name))


class _Function:
    def __init__(self, driver: HostDriver, name: str) -> None:
        self._driver, self._name = driver, name

    def prepare(self, arg_types: str) -> _Function:
        self._format = arg_types
        return self

    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, ...], stream: Any, *args: Any
    ) -> None:
        self._driver.fail(self._name)
        assert len(grid) == 3
        assert len(block) == 3
        values = struct.unpack(self._format, struct.pack(self._format, *args))
        kinds = {'P': ctypes.c_void_p, 'f': ctypes.c_float, 'i': ctypes.c_int}
        given = [kinds[kind](value) for kind, value in zip(self._format, values, strict=True)]
        library = self._driver.library
        if self._name == 'letterbox':
            width, height = values[2:4]
            assert grid[0] * block[0] >= width
            assert grid[1] * block[1] >= height
            call = (library.run_letterbox, [*given[:2], grid[2], *given[2:]])
        elif self._name == 'suppress':
            call = (library.run_suppress, [*given[:4], grid[0], *given[4:], 4])
        else:
            assert grid[0] * block[0] >= values[-1]
            call = (getattr(library, f'run_{self._name}'), [*given[:3], grid[1], *given[3:]])
        self._driver.queue(lambda: call[0](*call[1]))


class _Bindings:
    class CUstreamCaptureMode(IntEnum):
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    def __init__(self, driver: HostDriver) -> None:
        self._driver = driver

    def CUstream(self, handle: int) -> int:  # noqa: N802
        return handle

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:  # noqa: N802
        if self._driver.failing and self._driver.failing[0][0] == 'capture':
            self._driver.failing.pop(0)
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        self._driver.kept = []
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        kept, self._driver.kept = self._driver.kept, None
        return CUresult.CUDA_SUCCESS, kept

    def cuGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return CUresult.CUDA_SUCCESS, list(graph)

    def cuGraphLaunch(self, graph: Any, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self._driver.fail('cuGraphLaunch')
        self._driver.replays += 1
        for work in graph:
            work()
        return (CUresult.CUDA_SUCCESS,)

    def cuGraphDestroy(self, graph: Any) -> tuple[Any, ...]:  # noqa: N802
        return (CUresult.CUDA_SUCCESS,)

    cuGraphExecDestroy = cuGraphDestroy  # noqa: N815
