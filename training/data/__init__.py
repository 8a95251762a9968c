"""Data sets of cones: had, verified, compared, and made ready for training.

fetch -> manifest -> verify -> leaks -> gap. Nothing here imports torch unless it says so.
"""
