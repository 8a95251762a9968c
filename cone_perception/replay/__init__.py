"""Replay of recorded drives: how old, how complete and how good the answers are."""
