"""For the tests of projects: pytest's plugin, and Django's test runner. Nothing of it is imported in production."""
