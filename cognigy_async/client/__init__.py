"""The public API of the client."""
