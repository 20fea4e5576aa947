"""Channels and Django: the adapter and everything that it needs."""
