"""Everything that a replay shows: pages, charts, films."""
