"""Write dialog state from many machines, on Temporal.

`DurableStateClient` accepts updates in any process; `StateWorker` sends them. Requires the extra
``temporal``. The package imports the module of a name when you first use the name, so that the
workflows load nothing else into the sandbox of Temporal.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from .client import DurableStateClient, DurableUpdate
    from .codec import EncryptionCodec
    from .connection import connect
    from .jobs import dead_letters, job_result, job_status, start_job
    from .stream import DurableStream
    from .worker import StateWorker

__all__ = [
    "DurableStateClient",
    "DurableStream",
    "DurableUpdate",
    "EncryptionCodec",
    "StateWorker",
    "connect",
    "dead_letters",
    "job_result",
    "job_status",
    "start_job",
]

_HOMES = {
    "DurableStateClient": "client",
    "DurableStream": "stream",
    "DurableUpdate": "client",
    "EncryptionCodec": "codec",
    "StateWorker": "worker",
    "connect": "connection",
    "dead_letters": "jobs",
    "job_result": "jobs",
    "job_status": "jobs",
    "start_job": "jobs",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)
