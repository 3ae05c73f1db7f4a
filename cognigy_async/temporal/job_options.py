"""The options of a job that say how to read its input, as they cross the cluster."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from cognigy_async import ConfigurationError
from cognigy_async.bulk import JobOptions, TableOptions

NAMES = ("limit", "only_dialogs", "format", "text_columns")


def dump_job_options(options: JobOptions) -> dict[str, Any]:
    """Return the options that are not the default ones.

    Raises:
        ConfigurationError: An option needs all rows of a job in one process.
    """
    usual = JobOptions()
    given = {
        each.name: getattr(options, each.name)
        for each in fields(JobOptions)
        if each.init and getattr(options, each.name) != getattr(usual, each.name)
    }
    if others := given.keys() - {*NAMES, "table"}:
        raise ConfigurationError(
            f"{min(others)}: a job on a cluster has no such option; use bulk run for it"
        )
    if "table" in given:
        names = [each.name for each in fields(TableOptions) if each.init]
        given["table"] = {name: getattr(options.table, name) for name in names}
    return given


def load_job_options(given: dict[str, Any]) -> JobOptions:
    """Return the options; ignore those of a newer version."""
    known = {name: given[name] for name in NAMES if name in given}
    return JobOptions(**known, table=TableOptions(**given.get("table", {})))
