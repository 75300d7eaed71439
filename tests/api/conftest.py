"""Where the tests of paid requests keep their key and their journal."""

from pathlib import Path

import pytest
from asked import KEY


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "requests.sqlite"
