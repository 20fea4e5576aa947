"""One driver for each broker; `base` holds the contract that all of them keep."""
