"""The methods that send, and who gets a message: groups, users, browsers."""
