"""How generated tests run: the same examples each time, and no example against the clock.

For a longer search, with examples of its own: `pytest --hypothesis-profile=search tests/protocol`.
"""

from hypothesis import settings

settings.register_profile("reproducible", derandomize=True, database=None, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile("reproducible")
