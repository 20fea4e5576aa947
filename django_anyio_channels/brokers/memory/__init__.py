"""The in-memory broker: any number of threads and event loops of one process."""
