"""What all tests share: Hypothesis draws the same examples everywhere, and never judges a busy machine's speed."""

from hypothesis import HealthCheck, settings

settings.register_profile("torchere", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("torchere")
