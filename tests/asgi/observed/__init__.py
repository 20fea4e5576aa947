"""A project that is measured and traced: two consumers, a view that sends, and what became of it."""
