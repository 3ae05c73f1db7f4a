"""Errors that end a job.

::

    CognigyError
    └── BulkError                     the job cannot start or continue
        ├── InputError                the input cannot be read, or has changed
        │   └── OtherInputError       the input is not the one that the job began with
        └── JournalError              the journal cannot be written
            └── JournalRefusedError   the journal cannot be used for this job
"""

from __future__ import annotations

from cognigy_async import CognigyError


class BulkError(CognigyError):
    """A job cannot start or continue."""


class InputError(BulkError):
    """The input cannot be read, or has changed."""


class OtherInputError(InputError):
    """The input is not the one that the job began with."""


class JournalError(BulkError):
    """The journal cannot be written. The job sends no further request and can be resumed later."""


class JournalRefusedError(JournalError):
    """The journal is another job's, in use, damaged, lacks its `-wal`, or cannot be created.

    Also raised if the file of the journal or of the dead letters may belong to somebody else.
    """
