"""Programs that measure this library; see docs/benchmarks.md."""
