"""Jobs: the rows of a file, applied once each, with a journal that survives the process.

Start with `BulkJob`. It needs no extra for JSON Lines and CSV; Parquet needs ``parquet``, zstd
``zstd`` before Python 3.14, and reports need ``report``.
"""

from .dryrun import DryRun, dry_run
from .errors import BulkError, InputError, JournalError, JournalRefusedError
from .explain import Moment
from .explain import explain as explain_dialog
from .job import BulkJob, JobProgress
from .ledger import JobResult
from .options import JobOptions
from .rows import RowFault
from .summary import JournalSummary, read_summary

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
