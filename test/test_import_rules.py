"""Who may import what: the car runs cone_perception without PyTorch, and most of it without ROS."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
RUNTIME = REPOSITORY / 'cone_perception'
OFFLINE = {'torch', 'torchvision', 'training', 'ultralytics', 'wandb'}
ROS = {
    *('ament_index_python', 'cv_bridge', 'launch', 'launch_ros', 'rclpy'),
    *('builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs'),
    *('rcl_interfaces', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'vision_msgs'),
    'visualization_msgs',
}

RUNTIMES = {'cuda', 'onnxruntime', 'openvino', 'pycuda', 'tensorrt', 'tensorrt_rtx'}
ON_THE_NODE = {'answering', 'detect', 'engines', 'pipeline', 'ros'}
NOT_ON_THE_NODE = {'jinja2', 'plotly', 'pydantic', 'scipy'}
ENGINE_MODULES = {f'cone_perception.engines.cpu.{name}' for name in ('onnxruntime', 'openvino')}

IMPORT_ALL = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f'{name} is blocked', name=name)

BLOCKED = set(sys.argv[1].split(','))
sys.meta_path.insert(0, Refuse())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def source_files(package: Path) -> list[Path]:
    return sorted(package.rglob('*.py'))


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition('.')[0])
    return names


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


MODULES = [module_name(path) for path in source_files(RUNTIME)]


def import_without(blocked: set[str], modules: list[str]) -> None:
    command = [sys.executable, '-c', IMPORT_ALL, ','.join(blocked), *modules]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_runtime_imports_without_ros_and_training_packages() -> None:
    modules = [name for name in MODULES if 'ros' not in name.split('.')]
    assert 'cone_perception.types' in modules
    import_without(OFFLINE | ROS, modules)


@pytest.mark.ros
def test_node_imports_without_what_pages_and_training_need() -> None:
    modules = [name for name in MODULES if ON_THE_NODE & set(name.split('.')[1:2])]
    modules.remove('cone_perception.engines.verify_command')  # it writes a page
    assert {'cone_perception.detect', 'cone_perception.ros.node'} < set(modules)
    import_without(OFFLINE | NOT_ON_THE_NODE, modules)


@pytest.mark.parametrize('path', source_files(RUNTIME), ids=module_name)
def test_runtime_never_imports_offline_packages(path: Path) -> None:
    assert not imported_packages(path) & OFFLINE


@pytest.mark.parametrize('path', source_files(RUNTIME), ids=module_name)
def test_only_ros_modules_import_ros(path: Path) -> None:
    place = path.relative_to(RUNTIME)
    # Pictures of a bag are converted as the node's are: by cv_bridge where it is there and works.
    allowed = {'cv_bridge'} if place == Path('images.py') else set()
    if 'ros' not in place.parts[:-1]:
        assert not imported_packages(path) & ROS - allowed


@pytest.mark.parametrize('path', source_files(RUNTIME), ids=module_name)
def test_runtimes_are_imported_by_engines_and_these_where_they_are_opened(path: Path) -> None:
    if path.relative_to(RUNTIME).parts[0] != 'engines':
        assert not imported_packages(path) & RUNTIMES
    at_once = {n.module for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)}
    assert not at_once & ENGINE_MODULES


@pytest.mark.parametrize(
    'path', source_files(RUNTIME) + source_files(REPOSITORY / 'training'), ids=module_name
)
def test_launch_and_matplotlib_are_imported_by_launch_files_and_benchmarks_only(path: Path) -> None:
    assert not imported_packages(path) & {'launch', 'launch_ros', 'matplotlib'}


def test_folders_that_are_no_packages_stay_so() -> None:
    assert not [
        folder
        for folder in ('launch', 'config', 'test')
        if (REPOSITORY / folder / '__init__.py').exists()
    ]
