"""Benchmarks: this package's layer beside its peers, in one run, with every delivery verified."""
