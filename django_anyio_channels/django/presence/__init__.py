"""Presence: which members are in a group, at all nodes."""
