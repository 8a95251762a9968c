"""The distance between two data sets: what differs, by how much, and what that suggests."""
