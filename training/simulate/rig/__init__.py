"""The two eyes: where they stand, what they do other than their calibration says."""
