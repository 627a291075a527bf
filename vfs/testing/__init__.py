"""What a filesystem's author tests with: servers, conformance, model, state machine.

This package is public and ships in the wheel; nothing in ``vfs`` outside
``testing`` and ``cli`` imports it, and importing it loads nothing else.

Look in ``servers`` for real servers on loopback, ``conformance`` for the test
classes every filesystem here passes, ``model`` for the dict oracle,
``stateful`` for the Hypothesis state machine over it, and ``upstream`` for the
suites of fsspec and zarr.
"""

__all__: list[str] = []
