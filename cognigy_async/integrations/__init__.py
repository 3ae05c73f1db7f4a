"""The client inside web applications: `fastapi` and `aiohttp`, each with an extra of its own.

The application owns the client: it is opened when the application starts, shared by all requests,
and drained within a deadline when the application shuts down. What the two have in common is in
`drain`, `health` and `problems`, which need no framework.
"""
