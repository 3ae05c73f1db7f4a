"""Jobs: apply each row of a file once, with a journal that survives a crash.

Start with `BulkJob`. JSON Lines and CSV need no extra; Parquet needs ``parquet``, zstd ``zstd``
before Python 3.14, and reports need ``report``.
"""

from .dry_run import DryRun, dry_run
from .errors import BulkError, InputError, JournalError, JournalRefusedError
from .input.row import RowFault
from .job import BulkJob, JobProgress, JobResult
from .journal.summary import JournalSummary, read_summary
from .journal.timeline import Moment, explain_dialog
from .options import JobOptions

__all__ = [
    "BulkError",
    "BulkJob",
    "DryRun",
    "InputError",
    "JobOptions",
    "JobProgress",
    "JobResult",
    "JournalError",
    "JournalRefusedError",
    "JournalSummary",
    "Moment",
    "RowFault",
    "dry_run",
    "explain_dialog",
    "read_summary",
]
