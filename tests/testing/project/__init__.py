"""A project that tests itself: with pytest, and with Django's runner."""
