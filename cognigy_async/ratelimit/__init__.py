"""Rate limits decide when the next request may start."""
