"""Whether a key may use a model is asked of the server's own list, which is free."""

import re

import pytest
from asked import KEY, api_for, check_model
from openai_server import OpenAIServer

from lema.api.client import _NAMED_BY_USERS, _listed_as

LIST = [
    {"id": "gpt-6.2-sol"},
    {"id": "gpt-6.2-astra", "shutdown_date": None},
    {"id": "gpt-4", "shutdown_date": "2026-10-23"},
]
LIST += [{"id": "gpt-5", "shutdown_date": "2999-12-11"}, {"id": "proxied/*"}]
LIST += [{"id": "models/gemini-9"}, {"id": "llama9:latest"}]


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("gpt-6.2-sol", None),
        ("gpt-6.2-astra", None),
        ("gpt-5", None),
        ("proxied/anything", None),
        ("gemini-9", None),
        ("models/gemini-9", None),
        ("llama9", None),
        ("gpt-5:nitro", None),
        ("gpt-4", r"corrector.model=gpt-4: URL has shut it down on 2026-10-23: choose another corrector.model"),
        (
            "gpt-6.2-sool",
            "corrector.model=gpt-6.2-sool: URL does not list it for this key: choose one it lists, as gpt-6.2-sol",
        ),
        ("llama", "corrector.model=llama: URL does not list it for this key: choose one it lists, as "),
    ],
)
def test_a_model_is_listed_and_alive_or_one_line_says_why_not(model: str, line: str | None) -> None:
    with OpenAIServer(models=LIST) as server:
        found = check_model(api_for(server, model=model), "corrector", 300)
    assert not server.requests
    if line is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(line.replace("URL", server.url + "/"))


def test_a_list_that_does_not_have_what_users_name_themselves_refuses_nothing() -> None:
    names = {"gpt-4o-2024-08-06": {}}
    assert _listed_as("my-deployment", names) is None
    assert re.search(_NAMED_BY_USERS, "https://lab.openai.azure.com/openai/v1/")
    assert not re.search(_NAMED_BY_USERS, "https://api.openai.com/v1/")
    assert _listed_as("a:b", {"a": {}, "a:b": {}}) == "a:b", "its own name first"


@pytest.mark.parametrize("status", [404, 405, 501, 500])
def test_a_server_without_a_list_says_nothing(status: int) -> None:
    with OpenAIServer(models=status) as server:
        assert check_model(api_for(server), "corrector", 300) is None


@pytest.mark.parametrize("listed", [[], [{"name": "x"}], [3]])
def test_a_list_that_is_none_says_nothing(listed: list) -> None:
    with OpenAIServer(models=listed) as server:
        assert check_model(api_for(server), "corrector", 300) is None


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_line_without_it(status: int) -> None:
    with OpenAIServer(models=status) as server:
        line = check_model(api_for(server), "rationales", 300)
    assert line is not None
    assert line.endswith("set an OPENAI_API_KEY that it accepts")
    assert KEY not in line
    assert "\n" not in line


def test_a_server_that_is_not_there_is_one_line() -> None:
    with OpenAIServer() as server:
        pass
    line = check_model(api_for(server), "sampler.models.gpt.api", 300)
    assert line is not None
    assert line.startswith(f"{server.url}/: no connection")
    assert line.endswith("check it, or sampler.models.gpt.api.base_url")


@pytest.mark.parametrize("key", [None, "sk-ä"])
def test_without_a_key_nothing_is_asked(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if key:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    line = check_model(api_for("http://me:secret@localhost:1/v1"), "corrector", 300)
    assert line is not None
    assert line.startswith("OPENAI_API_KEY ")
    assert "secret" not in line
