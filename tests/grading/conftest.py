"""The published outputs of models, which the official and the symbolic rules are held against."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def outputs(data_dir: Path) -> list[dict[str, Any]]:
    with gzip.open(data_dir / "grading/model_outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
