"""`python -m training.simulate` is `cone-training simulate`."""

from __future__ import annotations

import argparse
import sys

from training.simulate.command import add_arguments, run

parser = argparse.ArgumentParser(prog='cone-training simulate', description=__doc__)
add_arguments(parser)
sys.exit(run(parser.parse_args()))
