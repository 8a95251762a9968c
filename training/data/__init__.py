"""Data sets of cones: fetch -> manifest -> verify -> leaks -> gap. No torch unless it is said."""
