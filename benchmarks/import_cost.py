"""CPU time of `import cognigy_async` beside `import httpx, pydantic`, in fresh processes.

    python benchmarks/import_cost.py           # medians of interleaved runs, and their ratio

Public names bring their modules at their first use, so there are two figures: the bare import, and
the import with the client, the token provider and the default transport.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 11
CLIENT = "AsyncStateClient, HttpxTransport, OAuthConfig, OAuthTokenProvider"
PROGRAMS = {
    "httpx, pydantic": "import httpx, pydantic",
    "cognigy_async": "import cognigy_async",
    "with what a client needs": f"from cognigy_async import {CLIENT}",
}


def cpu_ms(imports: str) -> float:
    program = f"import time; began = time.process_time(); {imports}; "
    program += "print(time.process_time() - began)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return float(done.stdout) * 1000


def main() -> None:
    rounds = [{name: cpu_ms(imports) for name, imports in PROGRAMS.items()} for _ in range(ROUNDS)]
    middle = {name: statistics.median(one[name] for one in rounds) for name in PROGRAMS}
    for name, value in middle.items():
        print(f"{name:26} {value:7.1f} ms {value / middle['httpx, pydantic']:6.2f} x")


if __name__ == "__main__":
    main()
