"""A Django project whose servers end gracefully."""

ROOM = "room"
"""The group that all browsers are in."""
