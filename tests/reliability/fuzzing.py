"""What the tests of made-up files and sets have in common."""

from hypothesis import HealthCheck, settings


def fuzz(count: int, *allowed: HealthCheck) -> settings:
    """Return the settings of a test of `count` cases, the same ones every time."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, *allowed]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=checks)
