"""The event loops and threads of a process, and its ends."""
