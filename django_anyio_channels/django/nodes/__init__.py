"""A node, its parts, and how nodes speak with each other."""
