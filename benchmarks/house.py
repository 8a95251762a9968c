"""Measures the code itself: lines, files, folders, import circles, names that stand twice.

    python benchmarks/house.py --json house.json

Lines: of .py, templates, .js and .css, tests apart. Code: without blank lines and docstrings.
"""

from __future__ import annotations

import argparse
import ast
import graphlib
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PRODUCT = ('cone_perception', 'training', 'launch', 'benchmarks', '.ci', 'setup.py')
PACKAGES = PRODUCT[:2]
SUFFIXES = ('.py', '.html', '.js', '.css')
LONGEST = 400
"""Lines that a file may have."""
MODULES = 16
"""Modules that a folder may hold, without its __init__.py."""


def product_files(*suffixes: str, places: tuple[str, ...] = PRODUCT) -> list[Path]:
    """Files with these suffixes in folders, or named themselves, sorted."""
    paths = [REPOSITORY / place for place in places]
    found = [*paths, *(below for path in paths for below in path.rglob('*'))]
    return sorted(path for path in found if path.suffix in suffixes and path.is_file())


def short_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding='utf-8').splitlines())


def read_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def code_lines(path: Path) -> int:
    """Lines of a Python file without blank lines and docstrings, those of attributes included."""
    told: set[int] = set()
    for node in ast.walk(read_tree(path)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            told.update(range(value.lineno, (value.end_lineno or 0) + 1))
    numbered = enumerate(path.read_text(encoding='utf-8').splitlines(), start=1)
    return sum(1 for number, line in numbered if line.strip() and number not in told)


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of the product that it imports, inside functions too."""
    files = product_files('.py', places=PACKAGES)
    modules = {module_name(path) for path in files}
    graph = {}
    for path in files:
        found = set()
        for node in _outside_type_checking(read_tree(path)):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = {f'{node.module}.{alias.name}' for alias in node.names}
                found.update(whole & modules or {node.module})
        graph[module_name(path)] = found & modules - {module_name(path)}
    return graph


def _outside_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.dump(child.test)):
            yield child
            yield from _outside_type_checking(child)


def import_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of modules that import each other; empty where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def repeated_classes() -> dict[str, list[str]]:
    """Public class name -> the modules that define it, where there is more than one."""
    places = defaultdict(list)
    for path in product_files('.py', places=PACKAGES):
        for node in read_tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                places[node.name].append(module_name(path))
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def measure() -> dict[str, object]:
    """Every figure, ready for JSON."""
    python = product_files('.py')
    lines = {short_name(path): count_lines(path) for path in product_files(*SUFFIXES)}
    folders = Counter(short_name(path.parent) for path in python if path.stem != '__init__')
    nodes = [node for path in python for node in ast.walk(read_tree(path))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    return {
        'lines': sum(lines.values()),
        'files': len(lines),
        'code lines': sum(code_lines(path) for path in python),
        'test lines': sum(count_lines(path) for path in product_files('.py', places=('test',))),
        f'files over {LONGEST} lines': {n: c for n, c in lines.items() if c > LONGEST},
        'longest file': max(lines.items(), key=lambda item: item[1]),
        'most modules in a folder': dict(folders.most_common(3)),
        'function length, mean': round(statistics.mean(lengths), 1),
        'function length, 95 %': lengths[int(len(lengths) * 0.95)],
        'hand-declared options': sum(
            isinstance(node, ast.Attribute) and node.attr == 'add_argument' for node in nodes
        ),
        'import circle': import_circle(import_graph()),
        'repeated class names': repeated_classes(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('--json', type=Path, help='file to write the figures to (none)')
    args = parser.parse_args()
    figures = measure()
    for name, value in figures.items():
        print(f'{name:26} {json.dumps(value)}')
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
