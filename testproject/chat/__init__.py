"""A chat: rooms, names, who says what, and a background worker that rolls dice and factors numbers."""
