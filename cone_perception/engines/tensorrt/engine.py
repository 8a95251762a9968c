"""TensorRT (or TensorRT-RTX) on an NVIDIA GPU, fed with the camera's own bytes through pycuda."""

from __future__ import annotations

from typing import Any

from cone_perception.engines.cuda.engine import CudaEngine
from cone_perception.engines.tensorrt.gpu import import_runtime, make_logger
from cone_perception.engines.tensorrt.plans import EnginePlan
from cone_perception.errors import EngineError, GpuMemoryError, PlanError, UnloadablePlanError
from cone_perception.model_card import NetworkFile, Preprocessing
from cone_perception.types import GpuRuntime

_NAMES: dict[GpuRuntime, str] = {'tensorrt': 'TensorRT', 'tensorrt_rtx': 'TensorRT-RTX'}


class TensorRtEngine(CudaEngine):
    """A plan of TensorRT or TensorRT-RTX: an Engine and a FrameEngine. plan: its file."""

    def __init__(
        self, plan: EnginePlan, network: NetworkFile, preprocessing: Preprocessing
    ) -> None:
        """Load the plan on this machine's GPU. network: the file that the plan was built from.

        Raises UnloadablePlanError when TensorRT does not take the plan, PlanError when it is no
        detector's, EngineError when there is no GPU or a library is missing.
        """
        _, trt = import_runtime(plan.provider)
        self.plan = plan.path
        super().__init__(
            lambda: TensorRtNetwork(trt, make_logger(trt), plan),
            preprocessing,
            network,
            runtime=f'{_NAMES[plan.provider]} {trt.__version__}',
        )


class TensorRtNetwork:
    """A plan that is loaded on the GPU: the device's Network, used in its thread only."""

    def __init__(self, trt: Any, logger: Any, plan: EnginePlan) -> None:
        """Raises UnloadablePlanError when TensorRT does not take the plan; else PlanError."""
        self._logger = logger
        self.close()
        try:
            self._open(trt, plan)
        except BaseException:
            self.close()
            raise

    def enqueue(self, stream: Any, input_address: int, output_address: int) -> None:
        context = self._context
        if not (
            context.set_tensor_address(self._input, input_address)
            and context.set_tensor_address(self._output, output_address)
            and context.execute_async_v3(int(stream.handle))
        ):
            raise self._error(EngineError, 'TensorRT did not run')

    def close(self) -> None:
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = None

    def _open(self, trt: Any, plan: EnginePlan) -> None:
        # The runtime must outlive its engine, the engine its context: freed in this order, too.
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.data)
        if self._engine is None:
            raise self._error(
                UnloadablePlanError,
                f'{plan.path} is refused by TensorRT {trt.__version__} on this GPU',
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._error(EngineError, f'{plan.path} cannot be made ready to run')
        names = [str(self._engine.get_tensor_name(i)) for i in range(self._engine.num_io_tensors)]
        mode, taken = self._engine.get_tensor_mode, trt.TensorIOMode.INPUT
        inputs = [name for name in names if mode(name) == taken]
        outputs = [name for name in names if name not in inputs]
        if len(inputs) != 1 or len(outputs) != 1:
            raise PlanError(
                f'{plan.path} has the inputs {inputs} and the outputs {outputs}; one of each is '
                'expected. Build it from an export of this package, or without NMS.'
            )
        self._input, self._output = inputs[0], outputs[0]
        self.input_shape = tuple(int(n) for n in self._engine.get_tensor_shape(self._input))
        self.output_shape = tuple(int(n) for n in self._engine.get_tensor_shape(self._output))
        if len(self.input_shape) != 4 or len(self.output_shape) != 3 or min(self.input_shape) < 1:
            raise PlanError(
                f'{plan.path} takes {self.input_shape} and outputs {self.output_shape}; expected '
                'are fixed shapes (B, 3, H, W) and (B, 4 + classes, boxes) or (B, boxes, 6).'
            )
        self.half_input = self._is_half(trt, self._input, plan)
        self.half_output = self._is_half(trt, self._output, plan)

    def _is_half(self, trt: Any, name: str, plan: EnginePlan) -> bool:
        kind = self._engine.get_tensor_dtype(name)
        if kind not in (trt.DataType.FLOAT, trt.DataType.HALF):
            raise PlanError(f'{plan.path}: {name} is of type {kind}, not float32 or float16.')
        return bool(kind == trt.DataType.HALF)

    def _error(self, kind: type[EngineError], what: str) -> EngineError:
        said = self._logger.take_errors()
        if 'out of memory' in said.lower() or 'outofmemory' in said.lower():
            return GpuMemoryError(f'{what}, the GPU has no memory left: {said}.')
        return kind(f'{what}: {said}.')
