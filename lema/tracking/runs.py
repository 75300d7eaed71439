"""One W&B run for each step that is really made: its config, its curve, its result, and what that was made from.

WANDB_MODE and the other WANDB_* variables are honoured; without WANDB_MODE a run is online when logged in, offline
otherwise, and `wandb sync` uploads it later. What W&B collects by itself is switched off where it names the user:
host, git remote, command line, paths, and the console, whose lines name folders; the system's load is kept.
"""

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact, Recipe, write_text
from lema.artifacts.faults import cause
from lema.artifacts.locks import lock
from lema.config import Config
from lema.identity import digest, identity, portable
from lema.tracking import refusals, results, service

log = logging.getLogger(__name__)

STEP = "train/step"  # the axis of all curves
MAX_TAG = 64  # W&B's limit
# Seconds to find that W&B is out of reach: at a run's start, and at its end. Its own retries go on for hours, and to
# bound those loses data without a word.
TIMEOUTS = {"INIT_TIMEOUT": "30", "FINISH_TIMEOUT": "30", "FINISH_TIMEOUT_RAISES": "true"}
PRIVATE: dict[str, Any] = {
    "x_disable_meta": True,
    "host": "",
    "program": "run.py",
    "disable_git": True,
    "disable_code": True,
}
# Seconds between writes to an offline run's log. wandb's own 15 leave it empty when a run is killed before, and
# `wandb sync` refuses all folders it is given when the log of one of them is empty.
FLUSH: dict[str, Any] = {"x_transaction_log_flush_interval": 1.0}
# Set by `wandb agent`: the one run that it waits for.
AGENT = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")


def run_id(root: Path, stage: str, key: str) -> str:
    """The W&B id of what is made from a recipe: the same when it is resumed, another in another runs folder.

    W&B refuses the id of a deleted run for ever, and two machines must not write into one run.
    """
    token = root / "wandb" / "id"
    if not token.exists():
        token.parent.mkdir(parents=True, exist_ok=True)
        with lock(token):
            if not token.exists():  # else another process was first
                write_text(token, uuid.uuid4().hex)
    return digest([token.read_text(encoding="utf-8", errors="replace"), stage, key])


@dataclass
class Tracker:
    """The W&B runs of one cell, one at a time."""

    config: Config
    root: Path  # the runs folder
    ids: dict[str, str] = field(default_factory=dict)  # step -> the id of its run
    offline: bool = False  # W&B was found to be out of reach

    def __post_init__(self) -> None:
        self.on = self.config.tracker.name == "wandb" and os.environ.get("WANDB_MODE") != "disabled"
        self._run: StepRun | None = None

    def missing(self) -> Iterator[str]:
        """What of its settings W&B would refuse."""
        return refusals.settings(self.config) if self.on else iter(())

    @contextlib.contextmanager
    def step(self, name: str, recipe: Recipe, made: dict[str, Artifact]) -> Iterator["StepRun"]:
        """The run of a step, not started yet; `made` are the steps before it. An error marks the run as failed."""
        used = set(_strings(recipe.inputs))
        inputs = {each: artifact for each, artifact in made.items() if artifact.digest in used}
        run = self._run = StepRun(self, name, recipe.stage, recipe.label, digest(recipe.identity()), inputs)
        try:
            yield run
        except BaseException:
            run.close(failed=True)
            raise
        finally:
            self._run = None
        run.close()

    def log(self, values: dict[str, float], step: int) -> None:
        """Values of the present step's curve at a training step."""
        if self._run:
            self._run.log({**values, STEP: step})

    def show_current(self, name: str, artifact: Artifact | None) -> None:
        """Under `wandb agent`: a result that was there already is logged all the same, as the agent's run."""
        if self.on and artifact and name == "evaluate" and os.environ.get("WANDB_SWEEP_ID"):
            stage, (label, _, key) = artifact.path.parent.name, artifact.path.name.rpartition("-")
            run = StepRun(self, name, stage, label, key, {})
            run.start()
            run.complete(artifact)
            run.close()

    def report(self, folder: Path, inputs: Iterable[Artifact]) -> None:
        """Log a folder's report, tables and figures as an artifact of type `report` that uses the given artifacts.

        One run for each runs folder and report: when it says more it is another version of the same artifact.
        """
        name = folder.name
        run = StepRun(self, "report", "report", name, name, {each.path.name: each for each in inputs})
        files = [file for name in ("report.md", "*.json", "*.csv", "*.png") for file in sorted(folder.glob(name))]
        run.start()
        run.publish(partial(_publish_report, name=f"report-{name}", files=files, inputs=run.inputs.values()))
        run.close()


class StepRun:
    """One run, online or offline. What W&B raises becomes one warning: tracking never costs a result.

    When W&B is lost on the way, the whole run is written again offline at its end, from what is kept here.
    """

    def __init__(
        self, tracker: Tracker, step: str, stage: str, label: str, key: str, inputs: dict[str, Artifact]
    ) -> None:
        self.tracker, self.step, self.inputs = tracker, step, inputs
        config = tracker.config
        self._config: dict[str, Any] = {"inputs": {name: artifact.digest for name, artifact in inputs.items()}}
        self._place: dict[str, Any] = {
            "project": config.tracker.project,
            "dir": results.here(tracker.root),
            "group": _group(config),
            "job_type": stage,
            "name": f"{stage} {label}",
            "resume": "allow",
        }
        if stage != "report":  # which is of many cells
            tags = [config.backbone.name, config.task.name, config.mix.name]
            self._place["tags"] = [tag[:MAX_TAG] for tag in tags]
            self._config |= portable(identity(config)) | {"recipe": key}
        self._key, self._stage = key, stage
        self._rows: list[dict[str, Any]] = []
        self._logged_until = -1  # the last step of the curve that W&B has
        self._publish: Callable[[Any], None] | None = None
        self._run: Any = None
        self._lost: Exception | None = None
        self._renamed = False  # its own id is that of a deleted run

    def starting(self, build: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
        """`build`, with the run started first: not while another process makes the same."""

        def started(folder: Path) -> dict[str, Any]:
            self.start()
            return build(folder)

        return started

    def start(self) -> None:
        """Start the run, or go on with it; offline where W&B does not take it."""
        if not self.tracker.on:
            return
        _prepare(self.tracker.root)
        problem = ""
        with _agent(self.step):
            try:
                import wandb

                self.tracker.offline |= not ("WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False))
                self._start()
            except Exception as error:  # of many kinds, none of which is a reason to lose a result
                found = cause(error, self.tracker.root)
                problem = f"W&B started no run ({found})" if found else refusals.happened(error)
                service.end()  # or the run id counts as in use
                self._renamed = "previously created and deleted" in str(error)  # which is refused later too
                if not self.tracker.offline:
                    self.tracker.offline = True
                    self._attempt(self._start)
        run, problem = self._run, problem and f"{problem}; {self.step} is"
        if run is None:
            log.warning("%s not logged at all", problem)
            return
        if problem:
            log.warning("%s logged offline; upload it later with %s", problem, self._sync)
        elif not run.offline or not self.tracker.ids:  # offline the first stands for all
            log.info("%-16s %s", "W&B run", run.url or f"offline; upload it later with {self._sync}")
        self.tracker.ids[self.step] = run.id
        if os.path.isabs(results.here(self.tracker.root)):
            _warn_of(self.tracker.root.absolute())

    def log(self, row: dict[str, Any]) -> None:
        """One row of the curve; W&B gets it once."""
        self._rows.append(row)
        if self._run is not None and row[STEP] > self._logged_until:
            self._attempt(partial(self._run.log, row))

    def complete(self, artifact: Artifact) -> None:
        """Show the result."""
        self.publish(partial(results.publish, step=self.step, artifact=artifact, inputs=self.inputs.values()))

    def publish(self, action: Callable[[Any], None]) -> None:
        """Have `action` log to the `wandb.Run`, now, and again should this be lost."""
        self._publish = action
        if self._run is not None:
            self._attempt(partial(action, self._run))

    def close(self, failed: bool = False) -> None:
        """End the run; when W&B was lost, write it again offline."""
        if self._run is None:
            return
        self._finish(int(failed))
        if self._lost and not self._run.offline:
            reason, self.tracker.offline = self._lost, True
            self._lost = None
            with _agent(self.step):
                self._attempt(self._write_offline)
            self._finish(int(failed))
            if not self._lost:
                told = "W&B did not take all of %s (%s): it is written again offline; upload it later with %s"
                log.warning(told, self.step, refusals.words(reason), self._sync)
        if self._run.offline and not self._lost and not failed:
            self._drop_older()
        if self._lost:
            log.warning("W&B: %s is not logged as a whole: %s", self.step, refusals.words(self._lost))
        if self.step == "evaluate":  # the agent's run is one cell's
            for name in AGENT:
                os.environ.pop(name, None)

    @property
    def _sync(self) -> str:
        """The command that uploads what is offline; one by one, or what two runs use can become two artifacts.

        wandb itself chose the folder: where it may not write it takes the system's for temporary files.
        """
        return f"wandb sync -n 1 {results.here(Path(self._run.dir).parents[1] / 'offline-run-*')}"

    def _start(self) -> None:
        import wandb

        own = run_id(self.tracker.root, self._stage, self._key)
        run = wandb.init(
            **self._place,
            id=digest([own, "instead"]) if self._renamed else own,
            config=self._config,
            mode="offline" if self.tracker.offline else None,
            settings=wandb.Settings(console="off", **PRIVATE, **FLUSH),
        )
        run.define_metric("train/*", step_metric=STEP)
        # Offline W&B cannot know what it has of a run: then all is logged, so that the newest folder is complete.
        self._logged_until = run.summary.get(STEP, -1) if run.resumed else -1
        self._run = run

    def _write_offline(self) -> None:
        service.end()
        self._start()
        for row in self._rows:
            self._run.log(row)
        if self._publish:
            self._publish(self._run)

    def _drop_older(self) -> None:
        """Remove what an earlier, killed attempt logged offline: this one has it all."""
        newest = Path(self._run.dir).parent
        older = [each for each in newest.parent.glob(f"offline-run-*-{self._run.id}*") if each.name != newest.name]
        if older:
            service.end()  # which writes to the disk what is on its way
        for each in older:
            if not each.is_symlink():
                shutil.rmtree(each)

    def _finish(self, exit_code: int) -> None:
        try:
            self._run.finish(exit_code=exit_code)
            self._lost = self._lost or refusals.lost(Path(self._run.dir).parent)
        except Exception as error:  # of many kinds, a timeout the most likely
            self._lost = self._lost or error

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Do it, unless W&B was lost before: each further call would wait again."""
        if self._lost is None:
            try:
                action()
            except Exception as error:  # of many kinds, none of which is a reason to lose a result
                self._lost = error


@contextlib.contextmanager
def _agent(step: str) -> Iterator[None]:
    """Leave the run that `wandb agent` waits for to the evaluation, whose score it is about: to others it is unknown.

    wandb reads these variables once; so it is begun anew where they are set.
    """
    if "WANDB_SWEEP_ID" not in os.environ:
        yield
        return

    service.end()
    held = {name: os.environ.pop(name) for name in AGENT if name in os.environ and step != "evaluate"}
    try:
        yield
    finally:
        os.environ.update(held)


def _prepare(root: Path) -> None:
    """What wandb reads from its variables, where the user has not set them: all its files go below the runs folder."""
    folder = results.here(root / "wandb")
    # The path of a staged table is uploaded with it. On Linux the working directory has a name that tells nobody's.
    cwd = Path("/proc/self/cwd")
    staged = folder if os.path.isabs(folder) or not cwd.exists() else str(cwd / folder)
    for variable, value in ({"DATA_DIR": staged, "CACHE_DIR": folder, "SILENT": "true"} | TIMEOUTS).items():
        os.environ.setdefault(f"WANDB_{variable}", value)


@cache
def _warn_of(root: Path) -> None:
    """W&B uploads where each file of an artifact lay; once a process."""
    log.warning("W&B is shown the path %s: with a runs_dir below the working directory it is not", root)


def _publish_report(run: Any, name: str, files: list[Path], inputs: Iterable[Artifact]) -> None:
    import wandb

    for each in inputs:
        results.use(run, each)
    made = wandb.Artifact(name, "report")
    for file in files:  # copied: the next report is written in their place
        made.add_file(results.here(file), name=file.name)
    run.log_artifact(made)


def _group(config: Config) -> str | None:
    return os.environ.get("WANDB_RUN_GROUP") or config.tracker.group


def _strings(value: Any) -> Iterator[str]:
    """All texts in plain values."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value
