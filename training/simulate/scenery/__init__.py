"""The surroundings of a track, drawn by chance: textures, things, the own car."""
