"""The command `cone-training`: each subcommand lives in a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cone_perception.cli import run_command

SUBCOMMANDS = {
    'simulate': ('training.simulate.command', 'render labelled pictures and drives'),
    'demo-model': (
        'training.demo_model.command',
        'train the shipped demo model on rendered pictures',
    ),
    'export': ('training.export.export', 'weights to a model bundle with an INT8 network'),
    'gate': ('training.export.gate', 'whether INT8 finds what FP32 finds, on labelled pictures'),
    'thresholds': ('training.export.thresholds', 'least score per class, where F1 is best'),
    'calibrate': (
        'training.export.class_probabilities',
        'how likely a detection is a cone of each class, for the model card',
    ),
    'judge': ('training.judging.judge', 'the old name of evaluate --operating-point card'),
    'data': ('training.data.command', 'fetch, verify and compare data sets'),
    'plan': ('training.campaign.plan', 'what a recipe would do, without starting it'),
    'evaluate': (
        'training.judging.evaluate_command',
        'figures of a model on a labelled data set, any format',
    ),
    'compare': (
        'training.judging.compare_command',
        'differences between evaluated models, with intervals',
    ),
    'two-stage': ('training.campaign.command', 'run a campaign: from data sets to a verdict'),
    'report': ('training.report.page', "write a campaign's page, Markdown and card again"),
    'status': ('training.campaign.status', 'how far a campaign is, from any shell'),
}
"""Subcommand -> (module with add_arguments(parser) and run(args) -> int, one line of help)."""

EXAMPLES = {
    '': 'cone-training plan two_stage',
    'simulate': 'cone-training simulate drive --seconds 20 --out drive_bag',
    'simulate dataset': 'cone-training simulate dataset --train 500 --val 100 --out rendered',
    'simulate drive': 'cone-training simulate drive --seconds 20 --stereo --out drive_bag',
    'demo-model': 'cone-training demo-model train --data crops --out trained',
    'demo-model crops': 'cone-training demo-model crops --data rendered --out crops',
    'demo-model drives': 'cone-training demo-model drives --out unseen_drives',
    'demo-model train': 'cone-training demo-model train --data crops --out trained',
    'export': 'cone-training export best.pt --data FSOCO-12 --out my_model',
    'gate': 'cone-training gate my_model --data FSOCO-12 --split test',
    'thresholds': 'cone-training thresholds --model my_model --data FSOCO-12',
    'calibrate': 'cone-training calibrate --model my_model --data FSOCO-12 --test FSOCO-12',
    'judge': 'cone-training judge --model my_model --data FSOCO-12 --split test',
    'data': 'cone-training data verify FSOCO-12',
    'data fetch': 'cone-training data fetch FSOCO-12 --to datasets',
    'data manifest': 'cone-training data manifest FSOCO-12 --check',
    'data verify': 'cone-training data verify FSOCO-12 --json verified.json',
    'data leaks': 'cone-training data leaks cone-detector FSOCO-12',
    'data gap': 'cone-training data gap cone-detector FSOCO-12 --out gap',
    'plan': 'cone-training plan two_stage stage1.epochs=50',
    'evaluate': 'cone-training evaluate best.pt --data FSOCO-12 --out evaluated',
    'compare': 'cone-training compare evaluated_a evaluated_b',
    'two-stage': 'cone-training two-stage two_stage --resume',
    'report': 'cone-training report runs/two-stage',
    'status': 'cone-training status runs/two-stage --json',
}
"""Words after the program's name -> the example at the end of their help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    return run_command('cone-training', SUBCOMMANDS, EXAMPLES, argv)


if __name__ == '__main__':
    sys.exit(main())
