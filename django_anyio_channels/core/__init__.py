"""The contract: what a layer promises and what a message is, and the tools that every part shares."""
