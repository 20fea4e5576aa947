"""What runs the consumers of Channels: all that must be known of them, and cheaper ways to their handlers."""
