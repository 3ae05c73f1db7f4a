"""How requests are built and responses are read, one module an API."""
