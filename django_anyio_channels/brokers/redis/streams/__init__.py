"""A history of each group in a Redis stream, and acknowledged delivery."""
