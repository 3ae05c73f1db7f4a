"""Order, timing and sending of requests."""
