"""The command `cone-training`: each subcommand lives in a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cone_perception.cli import run_command

SUBCOMMANDS = {
    'simulate': ('training.simulate', 'render labelled pictures and drives'),
    'demo-model': (
        'training.demo_model.command',
        'train the shipped demo model on rendered pictures',
    ),
    'export': ('training.export.export', 'weights to a model bundle with an INT8 network'),
    'gate': ('training.export.gate', 'whether INT8 finds what FP32 finds, on labelled pictures'),
    'thresholds': ('training.export.thresholds', 'least score per class, where F1 is best'),
    'judge': ('training.judging.judge', 'accuracy of a model bundle on a labelled data set'),
    'data': ('training.data.command', 'fetch, verify and compare data sets'),
    'plan': ('training.campaign.plan', 'what a training recipe would do, without starting it'),
    'evaluate': (
        'training.judging.evaluate',
        'figures of a model on a labelled data set, any format',
    ),
    'compare': ('training.judging.compare', 'differences between evaluated models, with intervals'),
    'two-stage': ('training.campaign.command', 'run a campaign: from data sets to a verdict'),
    'report': ('training.report.page', "write a campaign's page, Markdown and card again"),
    'status': ('training.campaign.status', 'how far a campaign is, from any shell'),
}
"""Subcommand -> (module with add_arguments(parser) and run(args) -> int, one line of help)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    return run_command('cone-training', SUBCOMMANDS, argv)


if __name__ == '__main__':
    sys.exit(main())
