"""Starts the ranks of a training as processes of this machine, watches them, and leaves none behind.

Each is given the job in a file, and nothing else. Rank 0 speaks: it has our terminal, and writes the curve, which is
followed here. What the others print lies beside the job. A rank dies with this process (Linux's parent-death signal).
"""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lema import stopping
from lema.artifacts import check
from lema.models.checkpoints import CONTENTS, saved
from lema.models.fitting import Fit, Track, fit
from lema.types import UserError

_LOOK = 0.1  # seconds between two looks at the ranks
_LAST = 5.0  # seconds in which the others may say themselves why they end, once one of them has ended
_LINES = 5  # of a rank's output in our error


def fit_by(job: Fit, track: Track) -> list[dict[str, float]]:
    """`fit`, here or by the planned ranks. Raises what a rank raised; for one that died `UserError`, with last lines.

    After a stop signal, which all ranks get, they have `train.grace_seconds` to save a checkpoint.
    """
    if job.plan.ranks == 1:
        return fit(job, track)
    gc.collect()
    torch.cuda.empty_cache()  # what sampling here has taken of the GPU of rank 0
    with tempfile.TemporaryDirectory(prefix="lema-ranks-") as name, _started(job, Path(name)) as team:
        with stopping.landing(team.forward):
            while team.alive():
                time.sleep(_LOOK)
                team.follow(track)
                team.end_late()
                check()
        team.follow(track)
        return team.result()


@dataclass
class _Team:
    """The ranks of one training, by their numbers."""

    job: Fit
    folder: Path  # of what each rank leaves
    ranks: list[subprocess.Popen[Any]]
    position: int = 0  # up to which the curve has been read
    late: float | None = None  # when what is still running is killed, in monotonic seconds
    lost: list[int] = field(default_factory=list)  # who ended badly by itself, before any was killed here

    def alive(self) -> bool:
        return any(each.poll() is None for each in self.ranks)

    def forward(self, number: signal.Signals) -> None:
        """Pass a stop signal on."""
        for each in self.ranks:
            if each.poll() is None:
                each.send_signal(number)
        self.late = time.monotonic() + self.job.settings.train.grace_seconds

    def follow(self, track: Track) -> None:
        """Track what rank 0 has added to the curve."""
        curve = self.folder / "curve"
        with curve.open("rb") if curve.exists() else open(os.devnull, "rb") as file:
            file.seek(self.position)
            for line in file:
                if line.endswith(b"\n"):
                    self.position += len(line)
                    track(*json.loads(line))

    def end_late(self) -> None:
        """Kill the others some seconds after one has ended badly, and all when the grace is over.

        One that was stopped while it loaded ends well, and the others may wait for it.
        """
        if not self.lost:
            self.lost = [number for number, each in enumerate(self.ranks) if each.poll() not in (None, 0)]
            if self.lost and self.late is None:
                saving = not all((each / CONTENTS).exists() for each in saved(self.job.folder))
                self.late = time.monotonic() + (self.job.settings.train.grace_seconds if saving else _LAST)
        if self.late is None and any("stopped" in self._left(number) for number in range(len(self.ranks))):
            self.late = time.monotonic() + self.job.settings.train.grace_seconds
        if self.late is not None and time.monotonic() > self.late:
            for each in self.ranks:
                each.kill()

    def result(self) -> list[dict[str, float]]:
        """The curve; raises what ended the ranks."""
        results = [self._left(number) for number in range(len(self.ranks))]
        for kind, error in (("stopped", stopping.Stopped), ("refused", UserError)):
            for result in results:
                if kind in result:
                    raise error(result[kind])
        codes = {number: each.wait() for number, each in enumerate(self.ranks)}
        if not any(codes.values()) and "curve" in results[0]:
            return results[0]["curve"]
        again = "the same command goes on from the last checkpoint"
        if number := stopping.received():
            seconds = f"train.grace_seconds={self.job.settings.train.grace_seconds}"
            raise stopping.Stopped(f"train: stopped by {number.name} before a checkpoint was saved ({seconds})")
        # Of who ended by itself: who was killed, else who failed first. The others failed for want of that one.
        lost = {number: code for number, code in codes.items() if code and number in (self.lost or codes)}
        number, code = min(lost.items(), key=lambda each: (each[1] > 0, results[each[0]].get("failed", 0.0)))
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        last = (self.folder / f"rank-{number}.log").read_text(errors="replace").strip().splitlines()[-_LINES:]
        told = f" ({' / '.join(last)})" if last else ""
        raise UserError(f"train: rank {number} of {len(self.ranks)} {ended}{told}: {again}")

    def _left(self, number: int) -> dict[str, Any]:
        file = self.folder / f"rank-{number}.json"
        return json.loads(file.read_bytes()) if file.exists() else {}


@contextmanager
def _started(job: Fit, folder: Path) -> Iterator[_Team]:
    """The ranks at work; none is left behind."""
    count = job.plan.ranks
    (folder / "job").write_bytes(pickle.dumps(job))
    given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(card) for card in range(torch.cuda.device_count()))
    cards = given.split(",") if torch.cuda.is_available() else [given] * count
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    team = _Team(job, folder, [])
    try:
        for number in range(count):
            variables = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "CUDA_VISIBLE_DEVICES": cards[number]}
            with (folder / f"rank-{number}.log").open("wb") as log:
                # A session of its own: a terminal's Ctrl-C reaches this process, which passes it on.
                options: dict[str, Any] = {"env": variables, "start_new_session": True, "stdin": subprocess.DEVNULL}
                options |= {"stdout": log, "stderr": log} if number else {}
                about = map(str, (folder, number, count, os.getpid()))
                team.ranks.append(subprocess.Popen([sys.executable, "-m", "lema.models.rank", *about], **options))
        yield team
    finally:
        for each in team.ranks:
            each.kill()
            each.wait()
