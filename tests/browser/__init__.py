"""The demo chat in a real browser. Sync Playwright wants a process of its own: ``pytest tests/browser``."""
