"""The region mask: the parts of the own car that a camera sees, and a polygon without them."""
