"""`cone-perception node` with faults planted into it, for tests that must find them.

PLANTED in the environment is JSON: {"preprocess": 40, ...} milliseconds more at a station,
{"lose": 20} never hears of each 20th picture, {"die": 10} dies at the 10th.
"""

from __future__ import annotations

import itertools
import json
import os
import time

from cone_perception import cli, pipeline
from cone_perception.preprocess import View
from cone_perception.ros import publishing, session

DEATH = 7


def delayed(function, delay_ms):
    def slower(*arguments):
        time.sleep(delay_ms / 1e3)
        return function(*arguments)

    return slower


class SlowEngine:
    def __init__(self, engine, delay_ms):
        self.info, self.close = engine.info, engine.close
        self.run = delayed(engine.run, delay_ms)


def plant(faults):
    View.apply = delayed(View.apply, faults.get('preprocess', 0))
    pipeline.decode = delayed(pipeline.decode, faults.get('decode', 0))
    publishers = publishing.AnswerPublishers
    publishers.publish = delayed(publishers.publish, faults.get('publish', 0))
    build, receive = pipeline.ConeDetector.__init__, session.Session._receive
    pipeline.ConeDetector.__init__ = lambda self, card, engine, views: build(
        self, card, SlowEngine(engine, faults.get('inference', 0)), views
    )
    number = itertools.count(1)

    def on_picture(self, topic, message):
        at = next(number)
        if at == faults.get('die'):
            print('planted death', flush=True)
            os._exit(DEATH)
        if at % faults.get('lose', at + 1):
            receive(self, topic, message)

    session.Session._receive = on_picture


if __name__ == '__main__':
    plant(json.loads(os.environ['PLANTED']))
    raise SystemExit(cli.main())
