"""Reading back what an offline W&B run wrote to disk: config, history, summary, artifacts, group, job type and tags."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from lema.tracking import service

HEADER_BYTES = 7  # of the file
BLOCK_BYTES = 32768  # LevelDB's log format: records in blocks, cut into fragments
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    data, position, parts = path.read_bytes(), HEADER_BYTES, b""
    while position + 7 <= len(data):
        if BLOCK_BYTES - position % BLOCK_BYTES < 7:  # the rest of a block is padding
            position += BLOCK_BYTES - position % BLOCK_BYTES
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(parts)
            yield record
            parts = b""


def offline_runs(runs_dir: Path) -> list[dict[str, Any]]:
    """The runs that were logged offline below a runs folder, the oldest first."""
    service.end()  # what this process finished may still be on its way to the disk
    folders = sorted((runs_dir / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime_ns)
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> dict[str, Any]:
    """The run in `.../offline-run-*`: the last value of each config and summary key, every history row.

    `artifacts` and `used` (what the run used) map an artifact's name to its type, metadata and files.
    """
    [log] = folder.glob("run-*.wandb")
    run: dict[str, Any] = {"folder": folder, "config": {}, "summary": {}, "history": [], "artifacts": {}, "used": {}}
    for record in records(log):
        if record.HasField("run"):
            run |= {"id": record.run.run_id, "group": record.run.run_group, "job_type": record.run.job_type}
            run |= {"name": record.run.display_name, "host": record.run.host}
            run["tags"] = list(record.run.tags)
            run["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            items = record.history.item
            run["history"].append(
                {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            )
        if record.HasField("summary"):
            for item in record.summary.update:
                run["summary"]["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        if (logged := _logged_artifact(record)) is not None:
            files = [entry.path for entry in logged.manifest.contents]
            found = {"type": logged.type, "metadata": json.loads(logged.metadata or "{}"), "files": files}
            run["used" if logged.use_after_commit else "artifacts"][logged.name] = found
        if record.HasField("exit"):
            run["exit_code"] = record.exit.exit_code
    return run


def _logged_artifact(record: Any) -> Any:
    """The artifact in a record, which offline is a request to log it."""
    if record.HasField("request") and record.request.HasField("log_artifact"):
        return record.request.log_artifact.artifact
    return record.artifact if record.HasField("artifact") else None
