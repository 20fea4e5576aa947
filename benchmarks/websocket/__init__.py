"""The whole way, from ``group_send`` to the WebSockets' clients, through real servers."""
