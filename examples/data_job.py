"""A data job: write totals from a Polars frame of orders, one update for each dialog.

    python examples/data_job.py orders.parquet --failed failed.parquet

The file (Parquet or CSV) has the columns `dialog_id`, `amount` and `ordered_at`. Updates that fail
are written to another file with the reason, and the exit status is 1. The client reads its settings
from the environment, see `cognigy_async.integrations.settings`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from cognigy_async import AsyncStateClient
from cognigy_async.integrations.settings import Settings

FAILURES = {"dialog_id": pl.String, "error": pl.String, "message": pl.String}


def totals(orders: Path) -> pl.DataFrame:
    """Return the totals of each dialog."""
    scan = pl.scan_csv if orders.suffix == ".csv" else pl.scan_parquet
    return (
        scan(orders)
        .group_by("dialog_id", maintain_order=True)
        .agg(
            lifetime_orders=pl.len(),
            lifetime_value=pl.col("amount").sum().round(2),
            last_order=pl.col("ordered_at").max().cast(pl.String),
        )
        .collect()
    )


def updates(frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield row by row, so that only rows in flight exist twice."""
    for row in frame.iter_rows(named=True):
        dialog_id = row.pop("dialog_id")
        yield {"dialog_id": dialog_id, "user": row}


async def write(frame: pl.DataFrame) -> pl.DataFrame:
    """Write all totals; return a frame of those that were not applied."""
    async with (
        AsyncStateClient(**Settings().client_arguments()) as client,
        client.update_many(updates(frame)) as outcomes,
    ):
        failures = [
            {
                "dialog_id": frame["dialog_id"][outcome.index],
                "error": type(outcome.error).__name__,
                "message": str(outcome.error),
            }
            async for outcome in outcomes
            if outcome.error is not None
        ]
    return pl.DataFrame(failures, schema=FAILURES)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write the order totals of dialogs to their user context."
    )
    parser.add_argument("orders", type=Path)
    parser.add_argument("--failed", type=Path, default=Path("failed.parquet"))
    options = parser.parse_args()
    frame = totals(options.orders)
    failures = asyncio.run(write(frame))
    print(f"{frame.height - failures.height} applied, {failures.height} not")
    if failures.is_empty():
        return 0
    failures.write_parquet(options.failed)
    print(f"see {options.failed}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
