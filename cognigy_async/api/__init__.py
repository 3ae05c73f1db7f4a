"""HTTP APIs of the server: how a request is built and how a response is read."""
