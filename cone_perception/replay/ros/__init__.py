"""The ROS processes of a replay: player, monitor, echo."""
