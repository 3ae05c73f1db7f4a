"""Callbacks and observers."""
