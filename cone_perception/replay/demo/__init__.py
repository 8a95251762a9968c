"""The demo: a drive played over DDS to the node in another process, its answers judged."""

from cone_perception.replay.demo.command import add_arguments, run

__all__ = ['add_arguments', 'run']
