"""The emulator as an ASGI app, and over sockets."""
