"""One stage of training, watched."""
