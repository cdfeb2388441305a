"""What stops a measurement.

Knows nothing else.
"""


class BenchError(Exception):
    """Nothing can be measured; the sentence says why and what to do."""
