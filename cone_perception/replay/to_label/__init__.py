"""The frames of a drive that are worth labelling."""
