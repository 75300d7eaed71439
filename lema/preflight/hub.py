"""Whether models and data sets are where the config says: in a folder here, in the cache, or on the Hub."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def unloadable(
    name: str, path: str | None, hub_id: str | None, revision: str | None, ask: bool = True
) -> Iterator[str]:
    """Where a model is not: in its folder `path`, or, without one, on the Hub; without `ask`, as this machine knows."""
    if path is None:
        yield from unreachable("model", str(hub_id), revision, f"{name}.path", ask)
        return
    folder, given = Path(path), f"model: {name}.path={path}"
    if not folder.is_dir():
        why = "a file, not a folder" if folder.exists() else "no such folder"
        hub = f"; one of the Hub is {name}.hub_id={path}, with {name}.revision=COMMIT or null for its newest"
        whole = f"{given}: {why}; name a folder with a model in Hugging Face format"
        yield whole + (hub if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) else "")
    elif not (folder / "config.json").is_file():
        yield f"{given} holds no config.json: choose a model in Hugging Face format"


def is_cached(kind: str, hub_id: str, revision: str | None) -> bool:
    """Whether a model, with its weights, or a data set of the Hub has been downloaded."""
    from huggingface_hub import errors, snapshot_download

    from lema.models.weights import weight_files

    # The last three are of a damaged index of weights.
    with suppress(errors.LocalEntryNotFoundError, errors.HFValidationError, ValueError, LookupError, TypeError):
        folder = Path(snapshot_download(hub_id, repo_type=kind, revision=revision, local_files_only=True))
        if kind != "model":
            return True
        files = weight_files(folder)
        return bool(files) and all(file.is_file() for file in files)
    return False


def unreachable(kind: str, hub_id: str, revision: str | None, path: str, ask: bool = True) -> Iterator[str]:
    """Why the Hub would not give this, if it would not; what is in the local cache needs no Hub.

    Without `ask` the Hub is not asked.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    if Path(hub_id).is_dir():  # which the Hub's own libraries would take for the repository
        yield f"{kind}: {hub_id} is a folder here, not a repository on the Hub: name it {path}={hub_id}"
        return
    if not ask or is_cached(kind, hub_id, revision):
        return
    try:
        # A file, not the repository's page: the page of gated weights is public.
        file = "config.json" if kind == "model" else "README.md"
        get_hf_file_metadata(hf_hub_url(hub_id, file, repo_type=kind, revision=revision))
        return
    except errors.HFValidationError:
        why = "is neither a folder nor the id of a repository on the Hub: correct it"
    except errors.OfflineModeIsEnabled:
        why = "is not in the cache and HF_HUB_OFFLINE is set: unset it"
    except errors.EntryNotFoundError:
        if kind != "model":  # the repository is there, and needs no such file
            return
        why = "has no config.json: choose a model in Hugging Face format"
    except errors.HfHubHTTPError as error:
        why = _refusal(error.response.status_code, error.response.headers.get("X-Error-Code"))
    except errors.HTTPError as error:  # pyright: ignore[reportPrivateImportUsage] # of the Hub's own client
        why = f"cannot be reached ({error}): check the network"
    yield f"{kind}: {hub_id}{f' at {revision[:8]}' if revision else ''} {why}, or {path}=FOLDER"


def _refusal(status: int, code: str | None) -> str:
    """What the Hub says of a repository, and what helps."""
    log_in = "run hf auth login (or set HF_TOKEN)"
    if status == 404:
        return "is not on the Hub (HTTP 404): check the id and the revision"
    if status == 401 and code == "RepoNotFound":  # so it answers those whom it does not know
        return f"is not on the Hub, or is private (HTTP 401): check the id, or {log_in}"
    if status in (401, 403):
        return f"is refused by the Hub (HTTP {status}): accept its licence on its page and {log_in}"
    return f"cannot be looked up, as the Hub answers HTTP {status}: try again later"


def downloads(models: Iterable[Any], datasets: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """What of these is not here, by its id, and the bytes of models in 16 bits; some are published in 32."""
    for model in models:
        if not model.path and model.hub_id and not is_cached("model", model.hub_id, model.revision):
            yield model.hub_id, (model.parameters or 0) * 2.0
    for dataset in datasets:
        if dataset and not (dataset.path or is_cached("dataset", dataset.hub_id, dataset.revision)):
            yield dataset.hub_id, 0.0
