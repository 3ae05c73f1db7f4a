"""HTTP libraries that send the requests."""
