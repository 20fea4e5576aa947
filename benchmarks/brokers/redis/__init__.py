"""Redis, without and with a history."""
