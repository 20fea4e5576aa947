"""PostgreSQL: LISTEN/NOTIFY, and queues in tables."""
