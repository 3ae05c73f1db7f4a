"""What a job cannot get over.

::

    CognigyError
    └── BulkError                  a job that cannot start, or cannot go on
        ├── InputError             the input cannot be read, or is no longer what it was
        └── JournalError           the journal cannot be written: nothing more is sent
            └── JournalRefusedError   it is another job's, in use, damaged, or cannot be made
"""

from __future__ import annotations

from cognigy_async import CognigyError


class BulkError(CognigyError):
    """A job that cannot start, or cannot go on."""


class InputError(BulkError):
    """The input cannot be read, or is no longer what it was."""


class JournalError(BulkError):
    """The journal cannot be written. Nothing more is sent; the job can be resumed later."""


class JournalRefusedError(JournalError):
    """The journal is another job's, in use, damaged, or cannot be made; nothing was sent."""
