"""Redis Cluster: which master has which slot, and how commands and subscriptions follow it."""
