"""The walls of the house: layers, circles, sizes, names. benchmarks/house.py measures them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / 'benchmarks'))

import house  # noqa: E402
from conftest import LONG  # noqa: E402

GRAPH = house.import_graph()
IMPORTS = [(module, other) for module, others in GRAPH.items() for other in others]

LAYERS = [
    'errors types classes files process arguments interfaces',
    'filters model_card settings',
    'images positions preprocess',
    'accuracy bags dataset pages pictures',
    'engines views',
    'pipeline',
    'answering',
    'detect region ros bags.command engines.build_command engines.verify_command',
    'replay',
    'cli',
]
"""cone_perception from the ground up: a module imports from its own layer and earlier ones."""

TRAINING_LAYERS = [
    'ultralytics_cpu',
    'recipe runs',
    'data',
    'judging simulate',
    'stage',
    'demo_model export',
    'campaign report',
    'cli',
]
"""training, which stands on cone_perception."""

RANKS = {
    '.'.join(filter(None, (package, name))): rank
    for rank, (package, names) in enumerate(
        [
            ('cone_perception', ''),
            *(('cone_perception', names) for names in LAYERS),
            ('training', ''),
            *(('training', names) for names in TRAINING_LAYERS),
        ]
    )
    for name in names.split() or ['']
}


def home(module: str) -> str:
    """The longest known name that the module is or lies in."""
    parts = module.split('.')
    names = ('.'.join(parts[:n]) for n in range(len(parts), 0, -1))
    known = next(name for name in names if name in RANKS)
    assert '.' in known or module == known, f'{module} belongs to no layer: add it to LAYERS'
    return known


def test_no_import_points_upwards() -> None:
    assert len(GRAPH) > 150
    assert not [f'{a} imports {b}' for a, b in IMPORTS if RANKS[home(b)] > RANKS[home(a)]]


def test_no_two_packages_import_each_other() -> None:
    pairs = {(home(a), home(b)) for a, b in IMPORTS if home(a) != home(b)}
    assert not [pair for pair in pairs if pair[::-1] in pairs]


def test_names_of_layers_and_of_long_tests_exist() -> None:
    assert not set(RANKS) - set(GRAPH)
    assert not [name for name in LONG if not (REPOSITORY / f'test/test_{name}.py').is_file()]


def test_nothing_but_the_command_line_imports_the_replay() -> None:
    replay = 'cone_perception.replay'
    importers = {a for a, b in IMPORTS if b.startswith(replay) and not a.startswith(replay)}
    assert importers <= {'cone_perception.cli'}


def test_there_is_no_import_circle() -> None:
    assert house.import_circle(GRAPH) == []


def test_import_circle_is_found() -> None:
    graph = {'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}}
    assert set(house.import_circle(graph)) == {'a', 'b', 'c'}


def test_public_class_names_stand_once() -> None:
    assert house.repeated_classes() == {}


def test_files_are_short_enough_to_read() -> None:
    lines = {
        house.short_name(p): house.count_lines(p) for p in house.product_files(*house.SUFFIXES)
    }
    assert {name: n for name, n in lines.items() if n > house.LONGEST} == {}


def test_folders_hold_few_modules() -> None:
    modules = Counter(path.parent for path in house.product_files('.py') if path.stem != '__init__')
    assert {folder.name: n for folder, n in modules.items() if n > house.MODULES} == {}


def test_folders_of_modules_are_packages() -> None:
    folders = {path.parent for path in house.product_files('.py', places=house.PACKAGES)}
    assert [str(folder) for folder in folders if not (folder / '__init__.py').is_file()] == []
