"""Steps that prepare the data: verified, searched for leaks, cut into crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cone_perception.files import write_json
from training.campaign.campaign import Campaign, CampaignStoppedError
from training.campaign.progress import say
from training.judging.verdict import Outcome
from training.recipe.recipe import used_datasets
from training.stage.training_set import write_splits


def verify(campaign: Campaign) -> dict[str, Any]:
    """Check every data set, and link what is usable of it into the campaign's folder.

    So the data sets themselves stay as they are, though Ultralytics mends pictures in place and
    writes its caches beside the labels. Raises CampaignStoppedError for a fatal problem.
    """
    from training.data.distributions import write_distributions
    from training.data.normalise import write_normalised
    from training.data.verify import verify_dataset

    folder, recipe = campaign.folder, campaign.recipe
    pictures, paths, manifests, failed = {}, {}, {}, []
    for name in used_datasets(recipe):
        report = verify_dataset(recipe.data_folder(name), recipe.datasets[name].images)
        write_json(folder.verification(name), report.to_json())
        write_distributions(report, folder.distributions(name))
        pictures[name] = {split: counts.pictures for split, counts in report.counts.items()}
        manifests[name] = report.manifest_sha256
        fatal = [str(p) for p in report.problems if p.fatal or p.kind == 'to-label']
        say(f'{name}: {pictures[name]}, {len(fatal)} fatal of {len(report.problems)} problems')
        if name == recipe.target and not pictures[name].get('test'):
            fatal.append('data.yaml: the target has no test split, which judges')
        for line in fatal[:10]:
            say(f'  {line}')
        if fatal:
            failed.append(f'{name}: {len(fatal)} fatal, the first {fatal[0]}')
            continue
        paths[name] = str(write_normalised(report, folder.data(name) / 'linked'))
        write_splits(folder.data_yaml(name), Path(paths[name]))
    if failed:
        raise CampaignStoppedError(
            Outcome.VERIFICATION_FAILED,
            f'{"; ".join(failed)}. All of them: {folder.root}/data/*/verify.json. Mend '
            'the data, then give --resume.',
        )
    return {'pictures': pictures, 'paths': paths, 'manifests': manifests}


def find_leaks(campaign: Campaign) -> dict[str, Any]:
    """Find pictures that are too like ones that judge; they are left out of training."""
    from training.data import leaks

    names, rule = tuple(used_datasets(campaign.recipe)), campaign.recipe.leaks
    place = campaign.folder.leaks(*names)
    report = leaks.find_leaks(
        {name: campaign.data_yaml(name) for name in names},
        rule.bits,
        cache=place.with_name('hashes.json'),
    )
    write_json(place, report.to_json(), indent=1)
    report.write_contact_sheet(campaign.folder.leaks_sheet(*names))
    excluded = {name: sorted(map(str, report.excluded(name))) for name in names}
    for name, paths in excluded.items():
        if paths:
            verb = 'are left out' if rule.exclude else 'stay (leaks.exclude=false)'
            message = f'{len(paths)} training pictures of {name} are like val or test: {verb}'
            say(message)
            campaign.folder.log_event('warning', 'leaks', message, step='leaks')
    return {
        'pairs': {f'{a} {b}': count for (a, b), count in report.counts.items()},
        'excluded': excluded if rule.exclude else {},
    }


def cut_crops(campaign: Campaign) -> dict[str, Any]:
    """Cut the crops of every stage that trains on some."""
    counts = {}
    for run in campaign.runs():
        for stage in run.stages:
            if stage.crops_per_picture:
                data_yaml, count = campaign.write_training_set(stage)
                counts[data_yaml.parent.name] = count
    return {'crops': counts}
