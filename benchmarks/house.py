"""Measures the code itself: lines, files, folders, import circles, names that stand twice.

    python benchmarks/house.py            # a table; --json FILE keeps it

Lines are those of .py, templates, .js and .css, tests apart. Code is
without blank lines, comments and docstrings.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import statistics
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PRODUCT = ('cone_perception', 'training', 'launch', 'benchmarks', '.ci')
SUFFIXES = ('.py', '.html', '.j2', '.js', '.css')
LONGEST = 400
"""Lines that a file may have."""
MODULES = 16
"""Modules that a folder may hold, without its __init__.py."""


def product_files(*suffixes: str, folders: tuple[str, ...] = PRODUCT) -> list[Path]:
    """Files of the product with these suffixes, sorted."""
    found = (path for folder in folders for path in (REPOSITORY / folder).rglob('*'))
    return sorted(path for path in found if path.suffix in suffixes and path.is_file())


def short_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding='utf-8').splitlines())


def docstring_lines(tree: ast.Module) -> set[int]:
    """Line numbers of every docstring, those of attributes among them."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        for statement in body if isinstance(body, list) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                lines.update(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    return lines


def code_lines(path: Path) -> int:
    """Lines of a Python file without blank lines and docstrings."""
    text = path.read_text(encoding='utf-8')
    docstrings = docstring_lines(ast.parse(text))
    numbered = enumerate(text.splitlines(), start=1)
    return sum(1 for number, line in numbered if line.strip() and number not in docstrings)


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


def imports_at_once(path: Path, modules: set[str]) -> set[str]:
    """Modules of the product that this one imports, inside functions too, type checking apart."""
    found: set[str] = set()
    for node in _outside_type_checking(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f'{node.module}.{alias.name}'
                found.add(whole if whole in modules else node.module)
    return found & modules - {module_name(path)}


def _outside_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.dump(child.test):
            continue
        yield child
        yield from _outside_type_checking(child)


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of the product that it imports."""
    files = product_files('.py', folders=('cone_perception', 'training'))
    modules = {module_name(path) for path in files}
    return {module_name(path): imports_at_once(path, modules) for path in files}


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == node:
                    break
            if len(group) > 1:
                circles.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return circles


def repeated_classes() -> dict[str, list[str]]:
    """Public class name -> the modules that define it, where there is more than one."""
    places = defaultdict(list)
    for path in product_files('.py', folders=('cone_perception', 'training')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                places[node.name].append(module_name(path))
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def function_lengths() -> list[int]:
    """Lines of each function and method of the product."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in product_files('.py')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def hand_declared_options() -> int:
    """Calls of add_argument in the product."""
    found = 0
    for path in product_files('.py'):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            found += token.string == 'add_argument'
    return found


def measure() -> dict[str, object]:
    """Every figure, ready for JSON."""
    python = product_files('.py')
    everything = product_files(*SUFFIXES)
    lines = {short_name(path): count_lines(path) for path in everything}
    folders = Counter(
        str(path.parent.relative_to(REPOSITORY)) for path in python if path.stem != '__init__'
    )
    lengths = sorted(function_lengths())
    return {
        'lines': sum(lines.values()),
        'files': len(everything),
        'code_lines': sum(code_lines(path) for path in python),
        'test_lines': sum(count_lines(path) for path in product_files('.py', folders=('test',))),
        'longest_files': {
            n: c for n, c in sorted(lines.items(), key=lambda i: -i[1]) if c > LONGEST
        },
        'full_folders': {name: n for name, n in folders.most_common() if n > MODULES},
        'most_modules': dict(folders.most_common(3)),
        'function_mean': round(statistics.mean(lengths), 1),
        'function_p95': lengths[int(len(lengths) * 0.95)],
        'hand_declared_options': hand_declared_options(),
        'import_circles': import_circles(import_graph()),
        'repeated_classes': repeated_classes(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--json', type=Path, help='file to write the figures to (none)')
    args = parser.parse_args()
    figures = measure()
    for name, value in figures.items():
        print(f'{name:22} {json.dumps(value)}')
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
