"""How soon the nodes of a group know that one of them has gone."""

INTERVAL = 2.0
"""Seconds between two renewals of a node's presence."""

LIFETIME = 7.0
"""Seconds for which it lasts, or for the grace period if that is longer. After an outage all come back within them."""
