"""Where cones stand, in metres, of the boxes that one eye shows. Knows no ROS."""
