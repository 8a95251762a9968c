"""The shipped model: how it is trained."""
