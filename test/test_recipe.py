"""Recipes: what is refused and how it is told, overrides, extension, and what is shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cone_perception.errors import RecipeError
from training.recipe import load
from training.recipe.load import (
    find_model,
    find_recipe,
    load_recipe,
    recipe_sha256,
    save_recipe,
    shipped_recipes,
)
from training.recipe.recipe import Figures, Recipe, Stage, arms

SHIPPED = Path(__file__).parents[1] / 'config' / 'training'

RECIPE = """\
name: short
model: yolo12n.yaml
target: cones
datasets:
  cones: {path: cones}
  more: {path: more}
stages:
  - name: stage1
    data: more
    epochs: 4
  - name: stage2
    data: cones
    epochs: 2
    lr0: 1e-3
baseline:
  - {name: single, data: cones, epochs: 4}
"""


LR, EPOCHS = 'lr0: 1e-3', '    epochs: 4'
"""Lines of it that a mistake replaces."""


def write(folder: Path, text: str, name: str = 'recipe.yaml') -> Path:
    path = folder / name
    path.write_text(text, encoding='utf-8')
    return path


def refusal(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, overrides or [])
    return str(refused.value)


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path, RECIPE)


def test_every_shipped_recipe_is_here():
    asked = 'two_stage single_stage two_stage_yolo26 higher_lr longer lower_lr cosine smoke mini'
    asked += ' shorter_stage1 more_augmentation data_size two_stage_all_scales'
    assert set(shipped_recipes()) == set(asked.split())
    assert shipped_recipes()['two_stage'].parent == SHIPPED


@pytest.mark.parametrize('name', sorted(shipped_recipes()))
def test_shipped_recipe_loads_and_trains_something(name):
    recipe = load_recipe(find_recipe(name))
    assert recipe.name == name.replace('_', '-')
    assert recipe.description
    for arm in arms(recipe):
        assert arm.stages[-1].data == recipe.target
        for stage in arm.stages:
            assert stage.warmup_bias_lr == 0


def test_shipped_recipes_have_names_of_their_own():
    names = [load_recipe(path).name for path in shipped_recipes().values()]
    assert len(set(names)) == len(names)


def test_two_stage_has_the_numbers_of_the_strategy():
    recipe = load_recipe(find_recipe('two_stage'))
    first, second = recipe.stages
    numbers = [(s.epochs, s.batch, s.lr0, s.lrf, s.patience, s.freeze) for s in (first, second)]
    assert numbers == [(200, 64, 0.01, 0.01, 50, 0), (150, 64, 0.001, 0.001, 30, 0)]
    assert recipe.datasets['cone_detector'].images == {'train': 19975, 'val': 1591, 'test': 1159}
    assert recipe.datasets['fsoco12'].images == {'train': 7120, 'val': 1968, 'test': 689}
    assert recipe.model == 'yolo12n.pt'
    assert [first.folder, second.folder] == ['stage1_cone_detector_200ep', 'stage2_fsoco12_150ep']
    assert recipe.judging.published['single-stage'].map50 == 0.7081
    assert recipe.judging.published['production'].recall == 0.5786
    assert recipe.judging.success == Figures(0.71, 0.485, 0.84, 0.65)


@pytest.mark.parametrize(
    'name, changed',
    [
        ('higher_lr', {'stage2': {'lr0': 0.005}}),
        ('lower_lr', {'stage2': {'lr0': 0.0005}}),
        ('longer', {'stage2': {'epochs': 250}}),
        ('cosine', {'stage2': {'cos_lr': True}}),
        ('shorter_stage1', {'stage1': {'epochs': 150}}),
    ],
)
def test_mitigation_differs_from_two_stage_only_where_it_says(name, changed):
    plain, mitigation = load_recipe(find_recipe('two_stage')), load_recipe(find_recipe(name))
    stages = tuple(replace(stage, **changed.get(stage.name, {})) for stage in plain.stages)
    expected = replace(
        plain, name=mitigation.name, description=mitigation.description, stages=stages
    )
    assert mitigation == expected


def test_yolo26_recipe_freezes_then_trains_all_layers_with_a_long_warmup():
    stages = load_recipe(find_recipe('two_stage_yolo26')).stages
    assert [stage.epochs for stage in stages] == [338, 50, 250]
    head, whole = stages[1:]
    assert (head.freeze, head.optimizer, head.lr0) == (10, 'AdamW', 0.001)
    assert (whole.freeze, whole.lr0, whole.cos_lr, whole.warmup_epochs) == (0, 5e-5, True, 50)


def passes(recipe: Recipe, stages: tuple[Stage, ...]) -> int:
    pictures = (recipe.datasets[stage.data].images['train'] for stage in stages)
    return sum(
        count * max(1, stage.crops_per_picture) * stage.epochs
        for count, stage in zip(pictures, stages, strict=True)
    )


def test_mini_gives_both_arms_nearly_the_same_image_passes():
    recipe = load_recipe(find_recipe('mini'))
    candidate, baseline = arms(recipe)
    both = (passes(recipe, arm.stages) for arm in (candidate, baseline))
    assert next(both) == pytest.approx(next(both), rel=0.05)


def test_all_scales_cost_as_much_as_two_stage():
    plain, scales = (load_recipe(find_recipe(f'two_stage{end}')) for end in ('', '_all_scales'))
    assert passes(scales, scales.stages) == pytest.approx(passes(plain, plain.stages), rel=0.01)
    for stage, whole in zip(scales.stages, plain.stages, strict=True):
        assert stage.crop_widths == (640, 640, 1280, 2560)
        assert (stage.imgsz, stage.lr0, stage.lrf) == (whole.imgsz, whole.lr0, whole.lrf)


@pytest.mark.parametrize(
    'old, new, told',
    [
        (LR, 'lr0: -0.1', 'recipe.yaml:14: stage2.lr0: -0.1 is refused: it has to be greater'),
        (LR, 'lr0: "1e-3"', "recipe.yaml:14: stage2.lr0: '1e-3' is refused: it has to"),
        (LR, 'lr0: .nan', "stage2.lr0: '.nan' is refused: it has to be a valid number"),
        (LR, 'lr: 1e-3', 'recipe.yaml:14: stage2.lr: unknown key. Did you mean lr'),
        (LR, 'epochs: 3', 'recipe.yaml:14: stage2.epochs: given twice, first in'),
        (LR, 'fraction: 1.5', 'stage2.fraction: 1.5 is refused: it has to be'),
        (LR, 'imgsz: 650', 'stage2.imgsz: 650 is refused: it has to be a multiple of 32, as 640'),
        (LR, 'imgsz: 48', 'it has to be a multiple of 32, as 32 or 64'),
        (LR, 'freeze: 22', 'stage2.freeze: 22 leaves nothing to train'),
        (LR, 'optimizer: auto', "stage2.optimizer: 'auto' is refused: it ignores lr0"),
        (LR, 'optimizer: sdg', "stage2.optimizer: 'sdg' is not known"),
        (LR, 'optimizer: sgd', 'Did you mean SGD or MuSGD?'),
        (LR, 'cos_lr: 1', 'stage2.cos_lr: 1 is refused: it has to be a valid boolean'),
        (LR, 'batch: 1:30', "stage2.batch: '1:30' is refused: it has to be a valid int"),
        (LR, 'batch: 0', 'stage2.batch: 0 is refused: it has to be greater than or'),
        (LR, 'warmup_bias_lr: 0.1', 'stage2.warmup_bias_lr: 0.1 is above lr0'),
        (
            LR,
            'crop_widths: [1280, 320]\n    crops_per_picture: 2',
            'stage2.crop_widths: 320 is less than a crop of imgsz 640 pixels',
        ),
        (LR, 'crop_widths: []', 'stage2.crop_widths: give at least one, as [640]'),
        (LR, 'crop_widths: 640', 'stage2.crop_widths: 640 is refused: it has to be a valid list'),
        (LR, 'crop_width: 640', 'stage2.crop_width: unknown key. Did you mean crop_widths?'),
        (EPOCHS, '    epochs: -1', 'recipe.yaml:10: stage1.epochs: -1 is refused'),
        (
            EPOCHS,
            '    epochs: 4.0',
            'recipe.yaml:10: stage1.epochs: 4.0 is refused: it has to be a',
        ),
        ('    epochs: 4\n', '', 'recipe.yaml:8: stage1.epochs: is missing'),
        ('    data: more', '    data: mor', "recipe.yaml:9: stage1.data: 'mor' is not among the"),
        ('name: stage2', 'name: stage1', "recipe.yaml:11: stages[1].name: 'stage1' is the name of"),
        ('name: stage2', 'name: model', "recipe.yaml:11: model.name: 'model' is a key of recipes"),
        ('name: stage2', 'name: a/b', 'becomes part of folder names'),
        ('target: cones', 'target: cone', "recipe.yaml:3: target: 'cone' is not among the"),
        ('model: yolo12n.yaml', 'model: yolo12n', 'recipe.yaml:2: model: '),
        ('model: yolo12n', 'models: x', 'recipe.yaml:2: models: unknown key. Did you mean model'),
        (
            '{path: more}',
            '{path: more, images: {tst: 3}}',
            'images.tst: no such split. Did you mean test?',
        ),
        ('{path: more}', '{path: more, source: coco}', "'coco' cannot be fetched. Known: cone-d"),
        ('{path: more}', '{path: more, source: FSOCO12}', 'Did you mean FSOCO-12?'),
        ('', 'seeds: []', 'seeds: give at least one'),
        ('', 'seeds: 0', 'recipe.yaml:15: seeds: 0 is refused: it has to be a valid list'),
        ('', 'seeds: [0, 0]', 'names one twice'),
        ('', 'device: gpu', "device: 'gpu' is no device"),
        ('', 'device: [0, 1, 2]', 'stage1.batch: 64 cannot be shared among 3'),
        ('', 'sweep: {stage3.lr0: [1]}', "no stage 'stage3': stage1, stage2"),
        ('', 'sweep: {stage1.lr: [1]}', 'lr: unknown key. Did you mean lr'),
        ('', 'sweep: {stage1.data: [1]}', "'data' is no number of a stage"),
        ('', 'sweep: {stage1.cos_lr: [1]}', 'cos_lr: 1 is refused: it has to be a valid boolean'),
        ('', 'sweep: {stage1.epochs: [0.5]}', 'epochs: 0.5 is refused: it has to be a valid int'),
        ('', 'sweep: {stage1.fraction: [2]}', 'fraction: 2'),
        ('', 'guards: {on_forgetting: lower}', 'neither `stop` nor a recipe'),
        ('', 'judging: {success: {map50: 71}}', 'success.map50: 71 is refused: it has'),
        ('', 'judging: {published: [1]}', 'published: [1] is refused: it has to be a valid m'),
        ('', 'tracking: {mode: on}', "tracking.mode: 'on' is not known"),
        ('', 'tracking: {project: ../cones}', "'../cones' holds one of /"),
        ('', 'extends: nothing', "recipe.yaml:15: extends: no recipe 'nothing', nor a file. Known"),
        ('name: short', 'name: [', 'not YAML'),
    ],
)
def test_mistake_is_told_with_file_line_and_key(recipe, old, new, told):
    pytest.importorskip('ultralytics') if 'freeze' in new else None
    if not old:
        old, new = 'baseline:', f'{new}\nbaseline:'
    assert old in RECIPE
    write(recipe.parent, RECIPE.replace(old, new))
    message = refusal(recipe)
    assert told in message
    assert message.startswith(f'{recipe}:') or 'mistakes:' in message


def test_all_mistakes_are_told_at_once(recipe):
    text = RECIPE.replace('epochs: 4\n', 'epochs: -4\n', 1).replace('1e-3', 'fast')
    write(recipe.parent, text.replace('target: cones', 'target: cars\ncolour: red'))
    message = refusal(recipe, ['stage2.lrf=2', 'stage9.lr0=1'])
    assert message.startswith('6 mistakes:')
    for told in ('stage1.epochs', 'stage2.lr0', 'stage2.lrf=2', 'colour', 'stage9', 'target'):
        assert told in message


def test_mistake_does_not_hide_what_depends_on_all_stages(recipe):
    write(recipe.parent, RECIPE.replace('epochs: 2', 'epochs: -2').replace('data: more', 'data: x'))
    message = refusal(recipe)
    assert 'stage2.epochs' in message
    assert 'stage1.data' in message


def test_file_that_is_no_recipe_is_refused(tmp_path):
    assert 'holds no mapping' in refusal(write(tmp_path, '- 1\n'))
    assert 'cannot be read' in refusal(tmp_path / 'none.yaml')


def test_numbers_are_what_people_mean_not_what_yaml_reads(recipe):
    write(recipe.parent, RECIPE.replace('epochs: 2', 'epochs: 010') + 'tracking: {mode: off}\n')
    found = load_recipe(recipe)
    assert found.stages[1].lr0 == 0.001
    assert found.stages[1].epochs == 10
    assert found.tracking.mode == 'off'


def test_overrides_reach_every_part(recipe):
    found = load_recipe(
        recipe,
        [
            'stage2.lr0=0.0005',
            'stages.stage1.batch=32',
            'baseline.single.epochs=3',
            'seeds=[0, 1]',
            'device=cpu',
            'datasets.cones.path=/data/x',
            'datasets.cones.images.train=7',
            'judging.resamples=200',
            'judging.success.recall=0.65',
            'sweep.stage1.fraction=[0, 0.5]',
            'tracking.entity=',
        ],
    )
    assert found.stages[1].lr0 == 0.0005
    assert (found.stages[0].batch, found.stages[0].epochs) == (32, 4)
    assert found.baseline[0].epochs == 3
    assert (found.seeds, found.device) == ((0, 1), 'cpu')
    assert found.data_folder('cones') == Path('/data/x')
    assert found.datasets['cones'].images == {'train': 7}
    assert (found.judging.resamples, found.judging.success.recall) == (200, 0.65)
    assert found.sweep == {'stage1.fraction': (0.0, 0.5)}


def test_override_of_a_list_or_mapping_by_an_empty_one_empties_it(recipe):
    assert load_recipe(recipe, ['baseline=[]']).baseline == ()
    assert load_recipe(find_recipe('data_size'), ['sweep={}']).sweep == {}


@pytest.mark.parametrize(
    'text, told',
    [
        ('stage2.lr=1', 'stage2.lr: unknown key. Did you mean lr'),
        ('stag2.lr0=1', "no key 'stag2'. Did you mean stage2"),
        ('baseline.singel.epochs=1', "no key 'singel' in baseline. Did you mean single?"),
        ('datasets.cone.path=x', "no key 'cone' in datasets. Did you mean cones?"),
        ('judging.succes.map50=1', 'judging.succes: unknown key. Did you mean success'),
        ('seeds.first=1', 'is refused: it has to be a valid list'),
        ('target.first=1', "target is one value, it has no key 'first'"),
        ('stage2.name=other', 'a name cannot be changed'),
        ('stage2.lr0', 'write KEY=VALUE'),
        ('stage2.lr0=[', 'not YAML'),
        ('stage2.lr0=-1', 'stage2.lr0: -1 is refused'),
        ('stage1.epochs=many', "stage1.epochs: 'many' is refused: it has to be a valid integer"),
    ],
)
def test_wrong_override_is_refused_by_name(recipe, text, told):
    message = refusal(recipe, [text])
    assert message.startswith(f'override {text}')
    assert told in message


def test_extension_merges_stages_by_name_and_takes_its_name_from_its_file(recipe):
    child = write(
        recipe.parent,
        'extends: recipe\nstages:\n  - {name: stage2, lr0: 0.01}\n'
        '  - {name: stage3, data: cones, epochs: 1}\njudging: {imgsz: 320}\n',
        'gentle_end.yaml',
    )
    base, found = load_recipe(recipe), load_recipe(child)
    assert found.name == 'gentle-end'
    assert found.stages[0] == base.stages[0]
    assert found.stages[1] == replace(base.stages[1], lr0=0.01)
    assert found.stages[2].name == 'stage3'
    assert found.judging == replace(base.judging, imgsz=320)


def test_mistakes_of_an_extension_name_the_file_that_makes_them(recipe):
    write(recipe.parent, RECIPE.replace('epochs: 4', 'epochs: x', 1))
    child = write(recipe.parent, 'extends: recipe\nstages:\n- {name: stage2, lr0: 7}\n', 'c.yaml')
    message = refusal(child)
    assert f'{recipe}:10: stage1.epochs' in message
    assert f'{child}:3: stage2.lr0' in message


def test_extension_in_a_circle_is_refused(tmp_path):
    write(tmp_path, 'extends: b\n', 'a.yaml')
    assert 'extends this file in turn' in refusal(write(tmp_path, 'extends: a\n', 'b.yaml'))


@pytest.mark.parametrize('name', sorted(shipped_recipes()))
def test_saved_recipe_loads_back_equal(name, tmp_path):
    recipe = load_recipe(find_recipe(name), ['stage2.lr0=3e-5'] if name != 'single_stage' else [])
    path = tmp_path / 'runs' / 'recipe.yaml'
    save_recipe(recipe, path)
    again = load_recipe(path)
    assert again == recipe
    assert recipe_sha256(again) == recipe_sha256(recipe)
    written = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert set(written) == set(Recipe.__dataclass_fields__)
    assert set(written['stages'][0]) == set(Stage.__dataclass_fields__)
    assert [entry.name for entry in path.parent.iterdir()] == ['recipe.yaml']


def test_hash_follows_the_meaning_not_the_text(recipe):
    before = load_recipe(recipe)
    write(recipe.parent, '# a comment\n' + RECIPE.replace('1e-3', '0.001'))
    assert recipe_sha256(load_recipe(recipe)) == recipe_sha256(before)
    assert recipe_sha256(load_recipe(recipe, ['stage2.lr0=0.002'])) != recipe_sha256(before)


def test_impossible_value_is_refused_in_code_too():
    with pytest.raises(RecipeError, match='lr0: -1'):
        Stage('stage1', 'cones', 1, lr0=-1)


def test_home_folder_is_expanded(recipe, monkeypatch):
    monkeypatch.setenv('HOME', '/home/team')
    words = ['data_root=~/sets', 'model=~/net.pt', 'datasets.more.path=~/more']
    found = load_recipe(recipe, words)
    assert found.data_folder('cones') == Path('/home/team/sets/cones')
    assert found.data_folder('more') == Path('/home/team/more')
    assert found.model == '/home/team/net.pt'


def test_arms_are_the_candidate_and_the_baseline(recipe):
    candidate, baseline = arms(load_recipe(recipe))
    assert (candidate.name, baseline.name) == ('two-stage', 'single-stage')
    assert [stage.name for stage in candidate.stages] == ['stage1', 'stage2']
    assert [stage.name for stage in baseline.stages] == ['single']
    assert (candidate.candidate, baseline.candidate) == (True, False)


def test_stages_without_epochs_are_left_out(recipe):
    overrides = ['stage1.epochs=0', 'baseline.single.epochs=0']
    (only,) = arms(load_recipe(recipe, overrides))
    assert [stage.name for stage in only.stages] == ['stage2']
    assert 'there is nothing to train' in refusal(recipe, [*overrides, 'stage2.fraction=0'])


def test_sweep_takes_the_place_of_the_candidate():
    found = arms(load_recipe(find_recipe('data_size')))
    assert [arm.name for arm in found] == [
        f'stage1.fraction={share}' for share in ('0', '0.25', '0.5', '1')
    ]
    assert [[stage.fraction for stage in arm.stages] for arm in found] == [
        [1.0],
        [0.25, 1.0],
        [0.5, 1.0],
        [1.0, 1.0],
    ]


def test_recipe_is_found_by_name_or_path(recipe, monkeypatch):
    assert find_recipe('two-stage') == find_recipe('two_stage') == SHIPPED / 'two_stage.yaml'
    assert find_recipe(str(recipe)) == recipe
    with pytest.raises(RecipeError, match='no recipe .two-stages.*Did you mean two_stage?'):
        find_recipe('two-stages')


def test_bad_extends_is_the_only_mistake_told(tmp_path):
    message = refusal(write(tmp_path, 'extends: smokee\nseeds: [0]\n'))
    assert message.endswith("yaml:1: extends: no recipe 'smokee', nor a file. Did you mean smoke?")


@pytest.mark.parametrize(
    'lib', ['lib/python3.10/site-packages', 'local/lib/python3.12/dist-packages', '.']
)
def test_installed_recipes_are_found_below_their_prefix(lib, tmp_path, monkeypatch):
    """A venv or colcon, Debian's Python, and `pip install --target`."""
    shared = tmp_path / 'share' / 'training' / 'config'
    shared.mkdir(parents=True)
    installed = write(shared, RECIPE, 'two_stage.yaml')
    monkeypatch.setattr(load, '__file__', str(tmp_path / lib / 'training' / 'recipe' / 'load.py'))
    assert find_recipe('two_stage') == installed
    installed.unlink()
    shared.rmdir()
    with pytest.raises(RecipeError, match='none'):
        find_recipe('two_stage')


def test_missing_weights_are_told_with_the_place_to_put_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=f'{tmp_path}/yolo12n.pt are not there. Put the file'):
        find_model('yolo12n.pt')
    Path('yolo12n.pt').touch()
    assert find_model('yolo12n.pt') == Path('yolo12n.pt')
    assert find_model('tiny.yaml') == SHIPPED / 'tiny.yaml'


def test_architecture_is_asked_of_ultralytics_without_its_network():
    pytest.importorskip('ultralytics')
    assert find_model('yolo26n.yaml') == 'yolo26n.yaml'
    with pytest.raises(RecipeError, match='yolo99n.yaml is neither a file'):
        find_model('yolo99n.yaml')
