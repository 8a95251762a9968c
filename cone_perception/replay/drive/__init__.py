"""A bag -> the drive that is replayed: its cameras and truth, and when each picture is due."""
