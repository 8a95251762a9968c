"""Prints setup.cfg's requirements with every lower bound taken as the version: pip constraints."""

from __future__ import annotations

import configparser
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).resolve().parents[1] / 'setup.cfg')
requirements = config['options']['install_requires'].splitlines()
for extra in config['options.extras_require'].values():
    requirements += extra.splitlines()
pins = {line.replace('>=', '==', 1).replace('[fastrtps]', '') for line in requirements}
print('\n'.join(sorted(pin for pin in pins if '==' in pin)))
