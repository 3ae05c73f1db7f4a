"""Values that callers pass in or get back."""
