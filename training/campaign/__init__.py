"""A campaign: its steps, its plan, its state."""
