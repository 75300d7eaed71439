"""A paid run as a process of its own, against a server that is another: what load tests are made of.

As a program: asks what its one argument, a JSON object, says, and prints what came of it as another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import resource
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lema import stopping
from lema.api.asking import ask
from lema.config import ApiConfig, PriceConfig

TESTS = Path(__file__).parent
# As a real server fails in a bad hour, and more: 2 % 429, 1 % 500, 0.5 % resets, 0.2 % truncated bodies, …
BAD_HOUR = {"429": 0.01, "429:1": 0.01, "500": 0.01, "reset": 0.005, "truncated": 0.002, "html": 0.002}
BAD_HOUR |= {"no_choices": 0.002, "null": 0.002, "wrong_model": 0.002, "refusal": 0.002, "length": 0.005}


def prompts(count: int) -> list[tuple[str, int]]:
    """So many prompts of 1.7 to 5 KB, as long as those of corrections."""
    chance = random.Random(0)
    words = [str(chance.random()) for _ in range(400)]
    lengths = [chance.randint(1700, 5000) for _ in range(count)]
    return [
        (f"{number}: {' '.join(chance.choices(words, k=length // 19))}", 0) for number, length in enumerate(lengths)
    ]


@contextlib.contextmanager
def served(*, faults: dict | None = None, limit: dict | None = None, **options: object) -> Iterator[str]:
    """The address of a server that is a process of its own."""
    texts = {"faults": json.dumps(faults or {})} | ({"limit": json.dumps(limit)} if limit else {}) | options
    command = [sys.executable, str(TESTS / "openai_server.py")]
    for name, value in texts.items():
        command += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().rpartition("=")[2].strip() if process.stdout else ""
        finally:
            process.kill()


def megabytes() -> float:
    """The most memory of this program; what `getrusage` tells counts that of the one it was forked from."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")) / 1024


def stats(url: str) -> dict:
    """The server's own bill."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats", timeout=20) as response:
        return json.load(response)


def started(url: str, count: int, journal: Path, **options: object) -> subprocess.Popen[str]:
    """A client process; options are `width` (in flight), `budget`, `price`, `retries`, `timeout` in seconds."""
    given = json.dumps({"url": url, "count": count, "journal": str(journal), **options})
    command = [sys.executable, str(TESTS / "asking_load.py"), given]
    environment = os.environ | {"OPENAI_API_KEY": "sk-secret-of-the-tests", "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str], timeout: float = 500) -> dict:
    """What the client says at its end."""
    out, errors = process.communicate(timeout=timeout)
    return json.loads(out) if out else {"error": errors.strip().splitlines()[-1]}


def main() -> None:
    """Ask, and tell."""
    stopping.listen()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = json.loads(sys.argv[1])
    api = ApiConfig(
        model="gpt-test",
        base_url=given["url"],
        max_completion_tokens=1000,
        max_concurrent_requests=given.get("width", 256),
        max_retries=given.get("retries", 6),
        request_timeout=given.get("timeout", 60.0),
        max_wait=600.0,
    )
    price, wanted, start = PriceConfig(*given.get("price", (2.0, 2.0, 10.0))), prompts(given["count"]), time.monotonic()
    settings = {"section": "corrector", "budget_usd": given.get("budget", 1e6), "journal_path": Path(given["journal"])}
    answers, spending = ask(wanted, api, price, **settings)
    told = {
        "seconds": time.monotonic() - start,
        "ended": Counter(answer.ended for answer in answers),
        "usable": sum(answer.usable for answer in answers),
        "digest": hashlib.sha256(repr(answers).encode()).hexdigest(),
        "spending": vars(spending),
        "megabytes": megabytes(),
        "torch": "torch" in sys.modules,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
