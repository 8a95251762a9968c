"""Evaluation, comparison and decision."""
