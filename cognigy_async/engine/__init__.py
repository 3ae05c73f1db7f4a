"""Decide the order and time of requests, and send them."""
