"""Virtual time for tests: the clocks of `cognigy_async.testing`."""

from __future__ import annotations

from cognigy_async.testing.virtual_time import (
    Backend,
    DeadlockError,
    VirtualClockLoop,
    backend_options,
    run,
)

__all__ = ["Backend", "DeadlockError", "VirtualClockLoop", "backend_options", "run"]
