"""torchere's service: `cli.py` is the way in."""

__version__ = "0.1.0"
