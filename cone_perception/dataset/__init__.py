"""YOLO data sets: layout and labels."""
