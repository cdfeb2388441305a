"""Measurements on one GPU: each script writes one JSON into benchmarks/results, with the machine and its versions."""
