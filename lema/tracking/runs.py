"""One W&B run for each step that is made, not found: its config, its curve, its result and its inputs.

WANDB_MODE, WANDB_DISABLED, WANDB_DIR, WANDB_ENTITY and WANDB_RUN_GROUP are honoured. What names one run is not, as a
command has several: WANDB_NAME, WANDB_RUN_ID, WANDB_RESUME, WANDB_TAGS. Without WANDB_MODE a run is online when W&B is
logged in, and otherwise offline, to be uploaded with `wandb sync`. What W&B collects by itself is switched off where it
names the user: host, git remote, command line, paths and console. The system's load is kept.
"""

import contextlib
import logging
import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact, Recipe, lock, read, used, write_text
from lema.artifacts.faults import cause
from lema.config import Config
from lema.identity import digest, identity, portable
from lema.tracking import artifacts, refusals, service

log = logging.getLogger(__name__)

STEP = "train/step"  # the axis of all curves
SHARED = ".shared.md"  # a report's words without this machine's paths, in the report's folder
_MAX_TAG = 64  # W&B's limit
# Seconds after which W&B counts as unreachable. Its retries go on for hours; a limit on them loses data silently.
_TIMEOUTS = {"INIT_TIMEOUT": "30", "FINISH_TIMEOUT": "30", "FINISH_TIMEOUT_RAISES": "true"}
# What names the user is left out.
PRIVATE: dict[str, Any] = {"x_disable_meta": True, "host": "", "disable_git": True, "disable_code": True}
# Seconds between writes to an offline run's log. With wandb's 15 a run that is killed early has an empty log, and
# `wandb sync` refuses all folders when the log of one is empty.
FLUSH: dict[str, Any] = {"x_transaction_log_flush_interval": 1.0}
_TRUE = ("true", "1", "yes", "y", "on")
# `wandb agent` sets these: they name the one run that it waits for.
_AGENT = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")


def run_id(root: Path, stage: str, key: str) -> str:
    """The W&B id for a recipe in this runs folder: the same when the step is resumed.

    Another runs folder has other ids: W&B refuses the id of a deleted run for ever, and two machines must not write
    into one run.
    """
    token = root / "wandb" / "id"
    if not token.exists():
        token.parent.mkdir(parents=True, exist_ok=True)
        with lock(token):
            if not token.exists():  # another process may have been first
                write_text(token, uuid.uuid4().hex)
    return digest([read(token).decode("utf-8", "replace"), stage, key])


@dataclass
class Tracker:
    """The W&B runs of one cell, one at a time."""

    config: Config
    root: Path  # the runs folder
    ids: dict[str, str] = field(default_factory=dict)  # step -> the id of its run
    offline: bool = False  # W&B cannot be reached

    def __post_init__(self) -> None:
        off = os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in _TRUE
        self.on = self.config.tracker.name == "wandb" and not off
        self._run: StepRun | None = None

    def missing(self) -> Iterator[str]:
        """The settings that W&B would refuse."""
        return refusals.settings(self.config) if self.on else iter(())

    @contextlib.contextmanager
    def step(self, name: str, recipe: Recipe, made: dict[str, Artifact]) -> Iterator["StepRun"]:
        """The run of a step, still to be started; `made` are the earlier steps. An error marks the run as failed."""
        told = recipe.identity()
        inputs = {each: artifact for each, artifact in made.items() if artifact.digest in used(told["inputs"])}
        run = self._run = StepRun(self, name, recipe.stage, recipe.label, digest(told), inputs)
        try:
            yield run
        except BaseException:
            run.close(failed=True)
            raise
        finally:
            self._run = None
        run.close()

    def log(self, values: dict[str, float], step: int) -> None:
        """Add values at a training step to the curve of the present step."""
        if self._run:
            self._run.log({**values, STEP: step})

    def show_current(self, evaluation: Artifact | None) -> None:
        """Under `wandb agent`, log also an evaluation that was made earlier, as the agent's run."""
        if self.on and evaluation and os.environ.get("WANDB_SWEEP_ID"):
            label, _, key = evaluation.path.name.rpartition("-")
            run = StepRun(self, "evaluate", evaluation.path.parent.name, label, key, {})
            run.start()
            run.complete(evaluation)
            run.close()

    def report(self, folder: Path, inputs: Iterable[Artifact]) -> None:
        """Log a folder's report, tables and figures as a version of the artifact of its one run, with these inputs."""
        run = StepRun(self, "report", "report", folder.name, folder.name, {each.path.name: each for each in inputs})

        def show(started: Any) -> None:
            import wandb

            for each in run.inputs.values():
                artifacts.use(started, each)
            made = wandb.Artifact(f"report-{folder.name}", "report")
            for pattern in (SHARED, "*.json", "*.csv", "*.png"):
                for file in sorted(folder.glob(pattern)):  # as copies: the next report takes their place
                    made.add_file(artifacts.here(file), name="report.md" if file.name == SHARED else file.name)
            started.log_artifact(made)

        run.start()
        run.show(show)
        run.close()


@dataclass
class StepRun:
    """One run, online or offline. An error of W&B becomes one warning: tracking never costs a result.

    When W&B fails during the run, the whole run is written again offline at its end, from what is kept here.
    """

    tracker: Tracker
    step: str
    stage: str
    label: str
    key: str  # of its recipe
    inputs: dict[str, Artifact]
    _rows: list[dict[str, Any]] = field(default_factory=list)  # of the curve
    _logged_until: int = -1  # the last step of the curve that W&B has
    _show: Callable[[Any], None] | None = None
    _run: Any = None
    _lost: Exception | None = None
    _renamed: bool = False  # its usual id is that of a deleted run

    def starting(self, build: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
        """`build`, with the run started first: under the artifact's lock, so one process starts it."""

        def started(folder: Path) -> dict[str, Any]:
            self.start()
            return build(folder)

        return started

    def start(self) -> None:
        """Start or resume the run; offline where W&B refuses it or cannot be reached."""
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
                self._renamed = "previously created and deleted" in str(error)  # W&B refuses that id for ever
                if not self.tracker.offline:
                    self.tracker.offline = True
                    self._attempt(self._start)
        run, problem = self._run, problem and f"{problem}; {self.step} is"
        if run is None:
            log.warning("%s not logged at all", problem)
            return
        if problem:
            log.warning("%s logged offline; upload it later with %s", problem, self._sync)
        elif not run.offline or not self.tracker.ids:  # of offline runs one line is enough
            log.info("%-16s %s", "W&B run", run.url or f"offline; upload it later with {self._sync}")
        self.tracker.ids[self.step] = run.id
        if os.path.isabs(artifacts.here(self.tracker.root)):
            _warn_of(self.tracker.root.absolute())

    def log(self, row: dict[str, Any]) -> None:
        """One row of the curve; W&B gets it once."""
        self._rows.append(row)
        if self._run is not None and row[STEP] > self._logged_until:
            self._attempt(partial(self._run.log, row))

    def complete(self, artifact: Artifact) -> None:
        """Log the result."""
        self.show(partial(artifacts.log_result, step=self.step, artifact=artifact, inputs=self.inputs.values()))

    def show(self, action: Callable[[Any], None]) -> None:
        """Let `action` log to the `wandb.Run`, now, and again if the run must be written again."""
        self._show = action
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
                why = "W&B did not take all of %s (%s): it is written again offline; upload it later with %s"
                log.warning(why, self.step, refusals.words(reason), self._sync)
        if self._run.offline and not self._lost and not failed:
            newest = Path(self._run.dir).parent  # it has everything that earlier, killed attempts have
            older = [each for each in newest.parent.glob(f"offline-run-*-{self._run.id}*") if each.name != newest.name]
            if older:
                service.end()  # it writes what it still holds to the disk
            for each in older:
                if not each.is_symlink():
                    shutil.rmtree(each)
        if self._lost:
            log.warning("W&B: %s is not logged as a whole: %s", self.step, refusals.words(self._lost))
        if self.step == "evaluate":  # the agent waits for one cell alone
            for name in _AGENT:
                os.environ.pop(name, None)

    @property
    def _sync(self) -> str:
        """The command that uploads the offline runs: one by one, or an input of two runs can become two artifacts.

        Its folder is the run's, as wandb uses the system's temporary folder where it may not write to ours.
        """
        return f"wandb sync -n 1 {shlex.quote(artifacts.here(Path(self._run.dir).parents[1]))}/offline-run-*"

    def _start(self) -> None:
        import wandb

        root, config = self.tracker.root, self.tracker.config
        own, tags = run_id(root, self.stage, self.key), None
        about: dict[str, Any] = {"inputs": {name: artifact.digest for name, artifact in self.inputs.items()}}
        if self.stage != "report":  # a report is of many cells
            about |= portable(identity(config)) | {"recipe": self.key}
            tags = [tag[:_MAX_TAG] for tag in (config.backbone.name, config.task.name, config.mix.name)]
        run = wandb.init(
            project=config.tracker.project,
            dir=os.path.expanduser(os.environ.get("WANDB_DIR") or artifacts.here(root)),
            group=os.environ.get("WANDB_RUN_GROUP") or config.tracker.group,
            job_type=self.stage,
            name=f"{self.stage} {self.label}",
            tags=tags,
            config=about,
            id=digest([own, "instead"]) if self._renamed else own,
            resume="allow",
            mode="offline" if self.tracker.offline else None,
            settings=wandb.Settings(console="off", program="run.py", **PRIVATE, **FLUSH),
        )
        run.define_metric("train/*", step_metric=STEP)
        # Offline W&B cannot tell what it has of a run: then everything is logged, and the newest folder is complete.
        self._logged_until = run.summary.get(STEP, -1) if run.resumed else -1
        self._run = run

    def _write_offline(self) -> None:
        service.end()
        self._start()
        for row in self._rows:
            self._run.log(row)
        if self._show:
            self._show(self._run)

    def _finish(self, exit_code: int) -> None:
        try:
            self._run.finish(exit_code=exit_code)
            self._lost = self._lost or refusals.lost(Path(self._run.dir).parent)
        except Exception as error:  # of many kinds, a timeout the most likely
            self._lost = self._lost or error

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Call `action`, unless W&B failed before: each further call would wait again."""
        if self._lost is None:
            try:
                action()
            except Exception as error:  # of many kinds, none of which is a reason to lose a result
                self._lost = error


@contextlib.contextmanager
def _agent(step: str) -> Iterator[None]:
    """Hide the variables of `wandb agent` from all steps but the evaluation, whose score the agent waits for."""
    if "WANDB_SWEEP_ID" not in os.environ:
        yield
        return
    service.end()  # wandb's process reads them once
    held = {name: os.environ.pop(name) for name in _AGENT if name in os.environ and step != "evaluate"}
    try:
        yield
    finally:
        os.environ.update(held)


def _prepare(root: Path) -> None:
    """Set the variables of wandb that the user has not set: all its files go below the runs folder."""
    folder = artifacts.here(root / "wandb")
    # The path of a staged table is uploaded with it. On Linux the working directory has a name without the user's.
    cwd = Path("/proc/self/cwd")
    staged = folder if os.path.isabs(folder) or not cwd.exists() else str(cwd / folder)
    for variable, value in ({"DATA_DIR": staged, "CACHE_DIR": folder, "SILENT": "true"} | _TIMEOUTS).items():
        os.environ.setdefault(f"WANDB_{variable}", value)


@cache
def _warn_of(root: Path) -> None:
    """Warn, once a process, that W&B uploads the path of each file of an artifact."""
    log.warning("W&B is shown the path %s: with a runs_dir below the working directory it is not", root)
