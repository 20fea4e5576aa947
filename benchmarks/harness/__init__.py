"""Runs benchmark sets and reports what they find."""
