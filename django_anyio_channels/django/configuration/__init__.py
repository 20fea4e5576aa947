"""CONFIG: how it is read and checked, and the layers that it describes."""
