"""A Django project whose servers end gracefully."""
