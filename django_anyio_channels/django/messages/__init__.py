"""The forms of a message on its way, and the layer's own messages."""
