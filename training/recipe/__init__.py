"""Recipes: what a campaign trains, and with what."""
