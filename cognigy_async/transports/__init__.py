"""HTTP libraries that send the requests, one module each; `base` defines their protocol.

A new one also needs a lazy name in the package's ``__init__`` and an extra in ``pyproject.toml``.
"""
