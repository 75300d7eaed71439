"""Against a server that nobody here wrote: `transformers serve` over the tiny backbone, as sampler and as corrector."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_server import real_server
from small import SMALL, rows, summary

from lema import pipeline
from lema.config import Config


@pytest.fixture
def server(tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the model that it serves."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"transformers serve needs {package}")
    overrides = [
        *SMALL,
        *("backbone.tiny.steps=60", "backbone.tiny.corpus_size=2000", "until=base", f"runs_dir={tmp_path}"),
    ]
    pipeline.run(make_config(*overrides), overrides)
    [base] = (tmp_path / "base").iterdir()
    model = shutil.copytree(base, tmp_path / "served")
    (model / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    (tmp_path / "hub").mkdir()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--device", "cpu", "--dtype", "float32"]
    with real_server(command, tmp_path / "log", os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub")}) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield str(model)


@pytest.mark.slow
def test_a_real_server_samples_and_corrects_real_questions(
    server: str, data_dir: Path, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    shown = tmp_path / "shown.txt"
    shown.write_text("Solve.\n")
    overrides = ["task=gsm8k", f"task.dataset.path={data_dir / 'gsm8k'}", "limit=30", "until=correct", "tracker=none"]
    overrides += ["backbone.tiny.steps=1", "backbone.tiny.corpus_size=50", f"runs_dir={tmp_path / 'runs'}"]
    overrides += ["sampler=server", f"sampler.model={server}", f"sampler.demonstrations={shown}"]
    overrides += ["sampler.max_new_tokens=40", "sampler.models.server.api.max_concurrent_requests=2"]
    overrides += ["corrector=gpt4", f"corrector.model={server}", f"corrector.prompt={shown}", "corrector.input_usd=0"]
    overrides += ["corrector.output_usd=0", "corrector.max_completion_tokens=40", "corrector.max_concurrent_requests=2"]
    pipeline.run(make_config(*overrides), overrides)
    [sampled], [corrected] = (list((tmp_path / "runs" / stage).iterdir()) for stage in ("sample", "correct"))
    counts = summary(sampled)
    assert (counts["solutions"], counts["failed"], counts["models"]) == (30, 0, ["…/served"])  # not its folder
    assert counts["completion_tokens"] > counts["truncated"] * 39
    assert counts["usd"] == 0
    assert all(row["text"] for row in rows(sampled / "solutions.jsonl"))
    counts = summary(corrected)
    assert counts["corrections"] == summary(sampled)["wrong_paths"] > 5
    assert set(counts["rejected"]) <= {"unparsable", "cut off by length"}, "a tiny model corrects nothing"
    assert counts["correctors"] == ["…/served"]
