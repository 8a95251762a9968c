"""What a replay shows: pages, charts, films."""
