"""The Django project that these tests serve: one consumer of each kind that Channels has."""
