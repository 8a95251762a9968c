"""The shipped JSON schemas: generated from the types as they are now, and true of real files."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import cv2
import pytest
from jsonschema import Draft202012Validator, ValidationError
from replay_results import result, trace
from tiny_network import painted, write_tiny_bundle

from cone_perception.cli import main
from cone_perception.model_card import shipped_bundle
from cone_perception.replay.figures.result import write_result
from training.recipe.load import find_recipe, load_recipe, save_recipe, shipped_recipes
from training.recipe.tree import plain_values, read_tree

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = REPOSITORY / 'benchmarks' / 'schemas.py'
NAMES = ('recipe', 'card', 'detections', 'result')


def validator(name: str) -> Draft202012Validator:
    path = REPOSITORY / 'cone_perception' / 'schemas' / f'{name}.schema.json'
    schema = json.loads(path.read_text(encoding='utf-8'))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def recipe_values(path: Path) -> Any:
    return plain_values(read_tree(path).values)


def test_shipped_schemas_are_those_of_the_types() -> None:
    command = runpy.run_path(str(COMMAND))
    made = command['make_schemas']()
    assert set(made) == set(NAMES)
    for name, schema in made.items():
        path = command['FOLDER'] / f'{name}.schema.json'
        shipped = json.loads(path.read_text(encoding='utf-8'))
        assert shipped == json.loads(json.dumps(schema)), 'run python benchmarks/schemas.py'


@pytest.mark.parametrize('name', sorted(shipped_recipes()))
def test_shipped_recipe_fits_its_schema(name: str, tmp_path: Path) -> None:
    check = validator('recipe')
    check.validate(recipe_values(find_recipe(name)))
    save_recipe(load_recipe(find_recipe(name)), tmp_path / 'recipe.yaml')
    check.validate(recipe_values(tmp_path / 'recipe.yaml'))


@pytest.mark.parametrize(
    'change',
    [{'colour': 'red'}, {'device': 'gpu'}, {'seeds': [-1]}, {'stages': [{'name': 'a', 'lr0': 2}]}],
)
def test_recipe_with_a_mistake_does_not_fit(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validator('recipe').validate(recipe_values(find_recipe('smoke')) | change)


def test_shipped_card_fits_its_schema() -> None:
    card = json.loads((shipped_bundle() / 'card.json').read_text(encoding='utf-8'))
    validator('card').validate(card)
    with pytest.raises(ValidationError):
        validator('card').validate(card | {'output_layout': 'other'})


def test_line_of_detections_fits_its_schema(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'a.png'), painted(('blue_cone', 640, 168, 64, 64)))
    model = write_tiny_bundle(tmp_path / 'model')
    files = [str(tmp_path / 'a.png'), '--model', str(model), '--out', str(tmp_path / 'o')]
    assert main(['detect', *files]) == 0
    (text,) = (tmp_path / 'o' / 'detections.jsonl').read_text().splitlines()
    line = json.loads(text)
    assert line['detections']
    validator('detections').validate(line)
    with pytest.raises(ValidationError):
        validator('detections').validate(line | {'more': 1})


def test_result_of_a_replay_fits_its_schema(tmp_path: Path) -> None:
    write_result(tmp_path / 'result.json', result([[trace(0), trace(1, 'dropped')]]))
    stored = json.loads((tmp_path / 'result.json').read_text(encoding='utf-8'))
    validator('result').validate(stored)
    assert not validator('result').is_valid(stored | {'more': 1})
    stored['passes'][0]['frames']['rows'][0][2] = 'yesterday'
    with pytest.raises(ValidationError):
        validator('result').validate(stored)


def test_help_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('sys.argv', [str(COMMAND), '--help'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(COMMAND), run_name='__main__')
