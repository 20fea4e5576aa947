"""What operators see of a layer: its health, its numbers, its nodes and queues."""
