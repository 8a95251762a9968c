"""The walk from messages to answers, without ROS: inbox, workers, answers, health."""
