"""Report of a job as one HTML file; needs the extra ``report``."""

from .html import write_report

__all__ = ["write_report"]
