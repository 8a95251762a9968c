"""A simulated Formula Student drive: labelled pictures and rosbags, seeded and deterministic."""
