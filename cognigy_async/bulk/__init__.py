"""Jobs: apply each row of a file once, with a journal that survives a crash.

Start with `BulkJob`. JSON Lines and CSV need no extra; Excel needs ``excel``, Parquet ``parquet``,
zstd ``zstd`` before Python 3.14, and reports need ``report``.
"""

from .baseline import forget_dialogs
from .column_summary import ColumnReport
from .dry_run import DryRun, dry_run
from .errors import BulkError, InputError, JournalError, JournalRefusedError
from .input.row import RowFault
from .input.table_options import TableOptions
from .job import BulkJob, JobProgress, JobResult
from .journal.summary import JournalSummary, read_summary
from .journal.timeline import Moment, explain_dialog
from .late_rows import LateRows
from .options import JobOptions

__all__ = [
    "BulkError",
    "BulkJob",
    "ColumnReport",
    "DryRun",
    "InputError",
    "JobOptions",
    "JobProgress",
    "JobResult",
    "JournalError",
    "JournalRefusedError",
    "JournalSummary",
    "LateRows",
    "Moment",
    "RowFault",
    "TableOptions",
    "dry_run",
    "explain_dialog",
    "forget_dialogs",
    "read_summary",
]
