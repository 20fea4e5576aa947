"""What browsers speak with: a consumer for WebSockets, and server-sent events."""
