"""A paid run as a process of its own, against a server that is another: what load tests are made of.

As a program: asks what its one argument, a JSON object, says, and prints what came of it as another.
"""

import contextlib
import hashlib
import json
import logging
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lema import stopping
from lema.api.asking import FREE, ask
from lema.api.requests import Exact, Message
from lema.config import ApiConfig, PriceConfig

HERE = Path(__file__).parent
# As a real server fails in a bad hour, and more: 2 % 429, 1 % 500, 0.5 % resets, 0.2 % truncated bodies, …
BAD_HOUR = {"429": 0.01, "429:1": 0.01, "500": 0.01, "reset": 0.005, "truncated": 0.002, "html": 0.002}
BAD_HOUR |= {"no_choices": 0.002, "null": 0.002, "wrong_model": 0.002, "refusal": 0.002, "length": 0.005}


def prompts(count: int) -> list[Message]:
    """So many prompts of 1.7 to 5 KB, as long as those of corrections."""
    chance = random.Random(0)
    words = [str(chance.random()) for _ in range(400)]
    lengths = [chance.randint(1700, 5000) for _ in range(count)]
    return [
        Message(f"{number}: {' '.join(chance.choices(words, k=length // 19))}") for number, length in enumerate(lengths)
    ]


def ids(count: int) -> list[Exact]:
    """So many prompts of 100 to 300 token ids, as long as questions with their answers' limit."""
    chance, fields = random.Random(0), {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    drawn = [[chance.randrange(32_000) for _ in range(chance.randint(100, 300))] for _ in range(count)]
    return [Exact(prompt, 1000, fields, seed=number) for number, prompt in enumerate(drawn)]


@contextlib.contextmanager
def served(*, faults: dict | None = None, limit: dict | None = None, **options: object) -> Iterator[str]:
    """The address of a server that is a process of its own."""
    texts = {"faults": json.dumps(faults or {})} | ({"limit": json.dumps(limit)} if limit else {}) | options
    command = [sys.executable, str(HERE / "openai_server.py")]
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
    command = [sys.executable, str(HERE / "asking_load.py"), given]
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
    price = PriceConfig(*given.get("price", (2.0, 2.0, 10.0)))
    wanted: Any = (ids if given.get("ids") else prompts)(given["count"])
    start, before = time.monotonic(), time.process_time()
    where = {"section": "corrector", "journal_path": Path(given["journal"])}
    if given.get("ids"):
        answers, spending = ask(wanted, replace(api, max_tokens=1000), FREE, budget_usd=0.0, whole=True, **where)
    else:
        answers, spending = ask(wanted, api, price, budget_usd=given.get("budget", 1e6), **where)
    told = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - before,
        "ended": Counter(answer.finish_reason for answer in answers),
        "usable": sum(answer.usable for answer in answers),
        "digest": hashlib.sha256(repr(answers).encode()).hexdigest(),
        "spending": vars(spending),
        "megabytes": megabytes(),
        "torch": "torch" in sys.modules,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()


def bad_hour(count: int, width: int, latency: float, folder: Path) -> dict:
    """Run it, and return what the client told."""
    with served(latency=latency, spread=0.5, faults=BAD_HOUR) as url:
        told = finished(started(url, count, folder / "journal.sqlite", width=width))
        bill = stats(url)
    print(told, bill, f"{count / told['seconds']:.0f}/s of {width / latency:.0f}/s", sep="\n")
    assert sum(told["ended"].values()) == count
    assert set(told["ended"]) <= {"stop", "refusal", "length", "HTTP 500", "connection lost", "malformed body"}
    assert told["usable"] > 0.98 * count
    assert bill["arrived_twice"] == 0
    assert bill["billed"] - bill["prompts"] <= bill["lost"]
    assert told["spending"]["usd"] >= bill["usd"] - 1e-9
    assert bill["most_in_flight"] <= width
    assert told["megabytes"] < 500
    assert not told["torch"]
    return told


def killed(times: int, count: int, width: int, folder: Path) -> None:
    """Kill -9 so often, then let it end."""
    chance = random.Random(times)
    with served(latency=0.2, spread=0.5) as url:
        journal, kills = folder / "journal.sqlite", 0
        while kills < times and _answered(journal) < count:
            before = stats(url)["requests"]
            process = started(url, count, journal, width=width)
            while stats(url)["requests"] == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 1))
            process.kill()
            process.communicate()
            kills += 1
            time.sleep(0.1)
            assert stats(url)["requests"] - _answered(journal) <= kills * width
        told = finished(started(url, count, journal, width=width))
        bill = stats(url)
    with served() as url:
        undisturbed = finished(started(url, count, folder / "undisturbed.sqlite", width=width))
    print(told, bill, f"{kills} kills", sep="\n")
    assert kills == times
    assert told["digest"] == undisturbed["digest"]
    assert bill["prompts"] == count
    assert bill["billed"] <= count + kills * width
    assert told["spending"]["usd"] >= bill["usd"] - 1e-9


def _answered(journal: Path) -> int:
    if not journal.exists():
        return 0
    with sqlite3.connect(journal, timeout=60) as db:
        return db.execute("select count(answer) from requests").fetchone()[0]


def four(count: int, folder: Path) -> None:
    """Four clients at once."""
    with served(latency=0.1, spread=0.5) as url:
        clients = [started(url, count, folder / "journal.sqlite", width=64) for _ in range(4)]
        told = [finished(client) for client in clients]
        bill = stats(url)
    print([one["seconds"] for one in told], bill)
    assert len({one["digest"] for one in told}) == 1
    assert bill["billed"] == bill["requests"] == count


def budget(count: int, dollars: float, folder: Path) -> None:
    """So much, where about three times as much is needed."""
    prices = (1.1, 8.0)  # of 3.4 KB, so 850 tokens, and 120 words
    scale = 3 * dollars / count / 1.83e-3
    price = (prices[0] * scale, prices[1] * scale)
    settings = {"width": 64, "price": (price[0], price[0], price[1])}
    with served(latency=0.05, prices=price, reply=120, faults={"reset": 0.005, "no_choices": 0.005}) as url:
        told = finished(started(url, count, folder / "journal.sqlite", budget=dollars, **settings))
        bill = stats(url)
        print(told["error"], bill["usd"])
        assert f"budget_usd={dollars:g}: " in told["error"]
        assert bill["usd"] <= dollars
        told = finished(started(url, count, folder / "journal.sqlite", budget=10 * dollars, **settings))
        after = stats(url)
        print(told, after)
        assert told["usable"] == count
        assert after["arrived_twice"] == 0
        assert 2 * dollars < after["usd"] <= told["spending"]["usd"] + 1e-9


def limited(limit: dict, count: int, folder: Path, share: float = 0.9) -> bool:
    """Ask so much of a server with this limit; whether at least a share of its rate was used."""
    folder.mkdir(exist_ok=True)
    with served(latency=0.2, spread=0.5, limit=limit) as url:
        told = finished(started(url, count, folder / "journal.sqlite", width=64))
        bill = stats(url)
    least = count * 60 / limit["per_minute"]
    print(
        limit, f"{count} in {told['seconds']:.1f} s, {least:.1f} at its rate: {least / told['seconds']:.0%} used", bill
    )
    assert told["usable"] == bill["billed"] == count
    return told["seconds"] <= least / share + 2  # the first answers are on their way
