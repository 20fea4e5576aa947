"""The Django project around the demo chat."""
