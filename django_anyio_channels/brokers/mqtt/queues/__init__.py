"""Normal channels over MQTT: one node owns a queue, the others ask it."""
