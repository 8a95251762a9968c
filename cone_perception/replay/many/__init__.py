"""Many bags: each replayed by a process of its own, here or on a Ray cluster, and one table."""
