"""The stage around the chat: processes that the page may kill, and a panel that shows what the layer makes of it."""
