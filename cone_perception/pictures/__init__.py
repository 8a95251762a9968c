"""Pictures, videos and bags read, drawn on and written."""
