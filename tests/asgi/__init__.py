"""Real consumers, served by real ASGI servers in processes of their own, driven by a real WebSocket client."""
