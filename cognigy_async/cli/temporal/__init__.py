"""Commands for many machines, on Temporal: `worker`, `job` and `dialog`."""
