"""Detections judged against labels."""
