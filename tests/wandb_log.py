"""Reading back what an offline W&B run wrote to disk: config, history, summary, group, job type and tags."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

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


def read_run(folder: Path) -> dict[str, Any]:
    """The run in `.../offline-run-*`: the last value of each config and summary key, every history row."""
    [log] = folder.glob("run-*.wandb")
    run: dict[str, Any] = {"config": {}, "summary": {}, "history": []}
    for record in records(log):
        if record.HasField("run"):
            run |= {"id": record.run.run_id, "group": record.run.run_group, "job_type": record.run.job_type}
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
        if record.HasField("exit"):
            run["exit_code"] = record.exit.exit_code
    return run
