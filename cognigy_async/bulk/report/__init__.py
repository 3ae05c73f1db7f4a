"""Report of a job as one HTML file; needs the extra ``report``."""

from .html import check_report, write_report

__all__ = ["check_report", "write_report"]
