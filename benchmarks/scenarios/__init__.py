"""What is measured, one scenario a file. Each function measures one contender once and verifies what arrived.

Each measurement runs in a process of its own. Rates count what all members of all processes have read and checked, from
the first call to the last reader's return to waiting. Messages have about 200 bytes.
"""
