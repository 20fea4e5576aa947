"""MQTT 5: topics, shared subscriptions and retained messages."""
