"""Jobs: the rows of a file, applied once each, with a journal that survives the process.

Start with `BulkJob`. It needs no extra for JSON Lines and CSV; Parquet needs ``parquet``, zstd
``zstd`` before Python 3.14, and reports need ``report``.
"""

from .errors import BulkError, InputError, JournalError, JournalRefusedError
from .job import BulkJob, JobProgress
from .ledger import JobResult
from .options import JobOptions

__all__ = [
    "BulkError",
    "BulkJob",
    "InputError",
    "JobOptions",
    "JobProgress",
    "JobResult",
    "JournalError",
    "JournalRefusedError",
]
