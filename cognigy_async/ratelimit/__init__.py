"""Quotas: when the next request may start."""
