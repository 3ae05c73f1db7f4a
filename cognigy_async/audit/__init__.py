"""Audit records of completed updates, and the sinks that take them."""
