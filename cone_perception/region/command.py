"""`cone-perception region`: a region mask that leaves out the own car, proposed from a drive."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cone_perception.detect import SETTINGS as OF_DETECT
from cone_perception.detect import add_search, network_record, open_detector, read_search
from cone_perception.errors import OutputError, told_as
from cone_perception.files import write_json, write_whole
from cone_perception.pictures.draw import encode_picture
from cone_perception.pictures.sources import open_source
from cone_perception.region.proposal import Proposal, propose
from cone_perception.region.watch import watch
from cone_perception.settings import settings_yaml

SETTINGS = tuple(name for name in OF_DETECT if name != 'region')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_search(parser, 'region', SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 when it was judged, also without a region, 1 when a picture failed."""
    settings, bundle = read_search(args, SETTINGS)
    source = open_source(args.source, args.topic)
    out = args.out or Path('region') / args.source.resolve().stem
    if out.resolve() == args.source.resolve():
        raise OutputError(f'{out} would write into its source: give another --out.')
    with open_detector(bundle, settings, settings.streams, bool(args.precision)) as detector:
        watched = watch(source, detector, settings)
        network = network_record(detector)
    proposal = propose(watched, bundle.card.class_names)
    with told_as(OutputError, f'{out} cannot be written'):
        write(proposal, out, network)
    print(proposal.text(out))
    return 1 if watched.failures else 0


def write(proposal: Proposal, out: Path, network: dict[str, Any]) -> None:
    """Write summary.json, region.png and, where there is a region, region.yaml."""
    write_json(out / 'summary.json', {**proposal.record(), **network})
    write_whole(out / 'region.png', encode_picture('.png', proposal.draw()))
    settings = out / 'region.yaml'
    if proposal.region:
        head = '# Written by cone-perception region.\n'
        write_whole(settings, settings_yaml({'region': proposal.region}, head))
    else:
        settings.unlink(missing_ok=True)  # of an earlier run
