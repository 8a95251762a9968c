"""The figures of a replay: made, named, kept, compared."""
