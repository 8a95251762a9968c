"""All that the builder and the engine take of TensorRT exists in NVIDIA's real bindings.

The bindings are on PyPI, the libraries below them are not. They need nine functions of those to be
imported; here these return nothing, so that names and signatures can be read, and no more.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

FUNCTIONS = (
    'createInferBuilder_INTERNAL', 'createInferRefitter_INTERNAL', 'createInferRuntime_INTERNAL',
    'createNvOnnxParserRefitter_INTERNAL', 'createNvOnnxParser_INTERNAL',
    'getBuilderPluginRegistry', 'getPluginRegistry', 'initLibNvInferPlugins',
    'getNvOnnxParserVersion',
)  # fmt: skip
LIBRARIES = ('nvinfer', 'nvonnxparser', 'nvinfer_plugin')

NAMES = """
    Builder.build_serialized_network Builder.create_builder_config Builder.create_network
    BuilderFlag.TF32 DataType.FLOAT DataType.HALF EngineInspector.get_engine_information
    IBuilderConfig.clear_flag IBuilderConfig.create_timing_cache IBuilderConfig.get_timing_cache
    IBuilderConfig.profiling_verbosity IBuilderConfig.progress_monitor
    IBuilderConfig.set_timing_cache ICudaEngine.create_engine_inspector
    ICudaEngine.create_execution_context ICudaEngine.get_tensor_dtype ICudaEngine.get_tensor_mode
    ICudaEngine.get_tensor_name ICudaEngine.get_tensor_shape ICudaEngine.num_io_tensors
    IExecutionContext.execute_async_v3 IExecutionContext.set_tensor_address ILayer.name ILayer.type
    ILogger.ERROR ILogger.INTERNAL_ERROR ILogger.WARNING INetworkDefinition.get_layer
    INetworkDefinition.num_layers ITimingCache.serialize LayerInformationFormat.JSON
    LayerType.CONVOLUTION NetworkDefinitionCreationFlag.STRONGLY_TYPED OnnxParser.get_error
    OnnxParser.num_errors OnnxParser.parse ParserError.desc ParserError.node_name
    ParserError.node_operator ProfilingVerbosity.DETAILED Runtime.deserialize_cuda_engine
    TensorIOMode.INPUT
"""

CHECK = """
import inspect, sys
import tensorrt_bindings as trt
from cone_perception.engines.tensorrt import compile_process, gpu

for path in sys.argv[1:]:
    found = trt
    for name in path.split('.'):
        found = getattr(found, name)

def arguments(of):
    return of.__doc__.split('(', 1)[1].split(')', 1)[0]

assert 'network: ' in arguments(trt.OnnxParser.__init__)
assert 'model: ' in arguments(trt.OnnxParser.parse)
assert 'ignore_mismatch: bool' in arguments(trt.IBuilderConfig.set_timing_cache)
events = []
monitor = compile_process.make_monitor(trt, events.append)
for name in ('phase_start', 'step_complete', 'phase_finish'):
    theirs = [part.split(':')[0].strip() for part in
              arguments(getattr(trt.IProgressMonitor, name)).split(',')]
    assert list(inspect.signature(getattr(type(monitor), name)).parameters) == theirs, theirs
monitor.phase_start('Building', None, 3)
assert monitor.step_complete('Building', 0) is True
logger = gpu.make_logger(trt, events.append)
for _ in range(2):
    logger.log(trt.ILogger.WARNING, 'careful')
logger.log(trt.ILogger.VERBOSE, 'Name: a, LayerType: b')
assert [event.message for event in events] == ['Building', 'careful']
assert logger.layers == ['Name: a, LayerType: b']
gpu.MODULES = {'tensorrt': ('tensorrt_bindings',)}
try:
    compile_process.compile_network(b'', 'tensorrt', 'SM89', 'int8')
except compile_process.EngineError as error:
    assert 'makes no builder here' in str(error), error
print('tensorrt', trt.__version__)
"""


def test_names_and_signatures_are_those_of_the_bindings(tmp_path, repository):
    if importlib.util.find_spec('tensorrt_bindings') is None:
        pytest.skip('the bindings of TensorRT are not installed (tensorrt-cu13-bindings)')
    compiler = shutil.which(os.environ.get('CC', 'cc'))
    if compiler is None:
        pytest.skip('needs a C compiler')
    source = tmp_path / 'nothing.c'
    source.write_text(''.join(f'void *{name}(void) {{ return 0; }}\n' for name in FUNCTIONS))
    for name in LIBRARIES:
        for version in (10, 11):
            file = f'lib{name}.so.{version}'
            options = ('-shared', '-fPIC', f'-Wl,-soname,{file}')
            subprocess.run([compiler, *options, source, '-o', tmp_path / file], check=True)
    paths = [str(repository), *filter(None, [os.environ.get('PYTHONPATH')])]
    given = {'LD_LIBRARY_PATH': str(tmp_path), 'PYTHONPATH': os.pathsep.join(paths)}
    command = [sys.executable, '-c', CHECK, *NAMES.split()]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('tensorrt 1')
