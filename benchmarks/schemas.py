"""Writes the JSON schemas of the project's files anew, from the types that read and write them.

    python benchmarks/schemas.py

cone_perception/schemas/NAME.schema.json: what an editor or another program checks a recipe, a model
card, a line of detections.jsonl or a result.json with.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cone_perception.files import write_json
from cone_perception.model_card import ModelCard
from cone_perception.replay.figures.result import ResultFile
from training.recipe.recipe import Recipe

FOLDER = Path(__file__).resolve().parents[1] / 'cone_perception' / 'schemas'

Pixels = Annotated[int, Field(ge=1)]


class DetectionEntry(BaseModel):
    """A cone. xyxy_px: left, top, right, bottom in the picture's pixels. score: 0..1."""

    model_config = ConfigDict(extra='forbid')
    class_name: str = Field(alias='class')
    score: Annotated[float, Field(ge=0, le=1)]
    xyxy_px: tuple[float, float, float, float]


class DetectionsLine(BaseModel):
    """A picture's line of detections.jsonl.

    stamp_ns: of the camera, where it has one. band_px: row around which the second look lay.
    """

    model_config = ConfigDict(extra='forbid')
    source: str
    stamp_ns: int
    width_px: Pixels
    height_px: Pixels
    band_px: float | None
    detections: list[DetectionEntry]


def make_schemas() -> Mapping[str, dict[str, Any]]:
    """Name -> schema."""
    recipe = TypeAdapter(Recipe).json_schema()
    # A recipe that extends another holds what differs, and is named after its file.
    recipe['properties']['extends'] = {'type': 'string'}
    required = [name for name in recipe.pop('required') if name != 'name']
    recipe |= {'if': {'not': {'required': ['extends']}}, 'then': {'required': required}}
    recipe['$defs']['Stage']['required'] = ['name']
    found = {
        'recipe': recipe,
        'card': TypeAdapter(ModelCard).json_schema(),
        'detections': DetectionsLine.model_json_schema(),
        'result': ResultFile.model_json_schema(),
    }
    dialect = {'$schema': 'https://json-schema.org/draft/2020-12/schema'}
    return {name: dialect | schema for name, schema in found.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition('\n')[0]).parse_args()
    for name, schema in make_schemas().items():
        path = FOLDER / f'{name}.schema.json'
        write_json(path, schema, indent=1)
        print(path)


if __name__ == '__main__':
    main()
