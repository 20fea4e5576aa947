"""A Django project whose channel layer runs on its database."""
