"""What `import cognigy_async` costs, next to `import httpx, pydantic`: CPU time of fresh processes.

    python benchmarks/import_cost.py           # medians of interleaved runs, and their ratio

Each public name brings its module when it is first used, so two numbers are told: the bare
import, and the import with the client, the token provider and the default transport.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 11
PROGRAMS = {
    "httpx, pydantic": "import httpx, pydantic",
    "cognigy_async": "import cognigy_async",
    "with what a client needs": (
        "from cognigy_async import AsyncStateClient, HttpxTransport, OAuthConfig, "
        "OAuthTokenProvider"
    ),
}


def cost(program: str) -> float:
    """Milliseconds of CPU time for the imports alone."""
    timed = (
        f"import time; began = time.process_time(); {program}; print(time.process_time() - began)"
    )
    answer = subprocess.run([sys.executable, "-c", timed], capture_output=True, check=True)
    return float(answer.stdout) * 1000


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            times[name].append(cost(program))
    base = statistics.median(times["httpx, pydantic"])
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:26} {middle:7.1f} ms {middle / base:6.2f} x")


if __name__ == "__main__":
    main()
