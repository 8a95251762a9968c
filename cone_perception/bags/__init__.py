"""Bags without ROS: look into them, cut them, make them of pictures and videos."""
