"""`python -m training.simulate` is `cone-training simulate`."""

from __future__ import annotations

import sys

from training.cli import main

if __name__ == '__main__':
    sys.exit(main(['simulate', *sys.argv[1:]]))
