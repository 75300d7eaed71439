"""A loopback server that speaks the part of the W&B protocol that runs, artifacts, `wandb sync` and sweeps use.

It keeps what it got in plain attributes. Clients need `environment`. `python tests/doubles/wandb_server.py` serves
alone: it prints the address, and at the end of its input all it got as JSON.
"""

import gzip
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

ENTITY = "team"
KEY = "0123456789" * 4
CREATED = "2026-01-01T00:00:00Z"
HISTORY = "wandb-history.jsonl"
Variables = dict[str, Any]


@dataclass
class Run:
    """One run, as the server has it after all that was sent."""

    id: str  # in W&B's protocol the name; the readable one is the display name
    project: str
    display_name: str | None = None
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    host: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)  # as sent: {"seed": {"value": 1}, "_wandb": …}
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)  # of each streamed file: offset -> line
    files: dict[str, str] = field(default_factory=dict)  # uploaded: name -> text
    exit_code: int | None = None
    state: str = "running"

    @property
    def values(self) -> dict[str, Any]:
        """The config that was given, without W&B's own part."""
        return {key: part["value"] for key, part in self.config.items() if key != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of `run.log`, by their offsets: a row that is sent again takes the place of the first."""
        lines = self.lines.get(HISTORY, {})
        return [json.loads(lines[offset]) for offset in sorted(lines)]


@dataclass
class Logged:
    """One version of an artifact."""

    id: str
    name: str
    type: str
    project: str
    digest: str
    client_id: str
    version: int
    metadata: dict[str, Any]
    logged_by: list[str] = field(default_factory=list)  # run ids
    used_by: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    state: str = "PENDING"
    files: dict[str, str] = field(default_factory=dict)  # name -> text
    manifest: dict[str, Any] = field(default_factory=dict)


class WandbServer:
    """Runs, artifacts and sweeps by id. `handlers`: name of a GraphQL operation -> what answers its variables."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.deleted: set[str] = set()  # ids of runs that were deleted: refused for ever
        self.artifacts: dict[str, Logged] = {}
        self.sweeps: dict[str, str] = {}  # id -> its YAML
        self.agent_runs: list[dict[str, Any]] = []  # {"run_id": …, "args": {name: {"value": …}}}, one for each start
        self.received: list[tuple[str, bytes]] = []  # (path, body) of every request
        self.refused: list[str] = []  # GraphQL operations that nothing answered well
        self.refusal: int | None = None  # the status that every request gets: 401 for a key that is not known
        self.lock = threading.RLock()
        self.handlers: dict[str, Callable[[Variables], dict[str, Any]]] = {
            "Viewer": lambda _: {"viewer": _viewer()},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "OrgFeatureFlags": lambda _: {"organization": {"featureFlags": []}},
            "XXHashDigestsEnabled": lambda _: {"entity": {"xxhashDigestsEnabled": False}},
            "UpsertBucket": self.upsert_run,
            "RunResumeStatus": self.resume_status,
            "CreateRunFiles": self.create_run_files,
            "MarkRunFilesUploaded": lambda _: {"markRunFilesUploaded": {"success": True}},
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "FetchArtifactDigestAlgorithm": lambda _: {"project": {"artifactType": None}},
            "ClientIDMapping": self.client_id_mapping,
            "CreateArtifact": self.create_artifact,
            "CreateArtifactManifest": self.create_manifest,
            "UpdateArtifactManifest": self.create_manifest,
            "CreateArtifactFiles": self.create_artifact_files,
            "CommitArtifact": self.commit_artifact,
            "UseArtifact": self.use_artifact,
            "ArtifactByID": lambda sent: {"artifact": self.as_graphql(self.artifacts[sent["id"]])},
            "ArtifactMembershipByName": self.artifact_by_name,
            "UpsertSweep": self.upsert_sweep,
            "SweepWithRuns": self.sweep_with_runs,
            "CreateAgent": lambda _: {"createAgent": {"agent": {"id": "agent-1"}}},
            "Heartbeat": self.heartbeat,
        }
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop answering: further connections are refused."""
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON for one request."""
        with self.lock:
            self.received.append((path, body))
            if self.refusal:
                return self.refusal, {"errors": [{"message": "\x1b[31mrefused"}]}
            if path.startswith("/graphql"):
                return self.graphql(json.loads(body))
            if found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                self.file_stream(self.runs[found[1]], json.loads(body))
            elif path.startswith("/upload/"):
                kind, of, name = path.split("/")[2:5]
                self.upload(kind, of, unquote(name), body)
            return 200, {}  # telemetry too

    def graphql(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name = request.get("operationName") or (found[1] if found else "")
        if name not in self.handlers:
            self.refused.append(name or request["query"])
            return 400, {"errors": [{"message": f"unknown operation {name}"}]}
        try:
            return 200, {"data": self.handlers[name](request.get("variables") or {})}
        except PermissionError as error:  # W&B's answer to the id of a deleted run
            return 409, {"errors": [{"message": str(error)}]}
        except (KeyError, TypeError, ValueError) as error:  # ours or the client's: shown, and not retried
            self.refused.append(f"{name}: {error!r}")
            return 400, {"errors": [{"message": repr(error)}]}

    def upsert_run(self, sent: Variables) -> dict[str, Any]:
        """Creates a run by its name, or changes one by its name or id; what is not sent stays."""
        name = sent.get("name") or sent.get("id") or ""
        if name in self.deleted:
            raise PermissionError(f"run {name} was previously created and deleted; try a new run name")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name, sent.get("project") or "uncategorized"))
        run.state = "running"
        names = {"displayName": "display_name", "groupName": "group", "jobType": "job_type"}
        for key in ("displayName", "groupName", "jobType", "sweep", "tags", "host"):
            if sent.get(key):
                setattr(run, names.get(key, key), sent[key])
        run.config = json.loads(sent["config"]) if sent.get("config") else run.config
        run.summary = json.loads(sent["summaryMetrics"]) if sent.get("summaryMetrics") else run.summary
        bucket = self.bucket(run) | {"project": _project(run.project), "sweepName": run.sweep}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def bucket(self, run: Run) -> dict[str, Any]:
        counts = {
            count: max(run.lines.get(name, {}), default=-1) + 1
            for name, count in (
                (HISTORY, "historyLineCount"),
                ("output.log", "logLineCount"),
                ("wandb-events.jsonl", "eventsLineCount"),
            )
        }
        own = {"id": run.id, "name": run.id, "displayName": run.display_name, "description": None, "tags": run.tags}
        return own | counts | {"config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary)}

    def resume_status(self, sent: Variables) -> dict[str, Any]:
        """What a client that may resume a run asks first."""
        run, own = self.runs.get(sent["name"]), _project(sent["project"])
        if run is None:
            return {"model": own | {"bucket": None}}
        tails = {
            tail: json.dumps([lines[max(lines)]] if (lines := run.lines.get(name)) else [])
            for name, tail in ((HISTORY, "historyTail"), ("wandb-events.jsonl", "eventsTail"))
        }
        more = {"notes": None, "wandbConfig": json.dumps({"t": 1})}
        return {"model": own | {"bucket": self.bucket(run) | tails | more}}

    def file_stream(self, run: Run, sent: dict[str, Any]) -> None:
        """Lines of a file at an offset, as they come; one that was sent before is replaced."""
        for name, part in (sent.get("files") or {}).items():
            start = 0 if name == "wandb-summary.json" else part["offset"]  # the one file that is sent whole
            run.lines.setdefault(name, {}).update(enumerate(part["content"], start))
            if name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]
            run.state = "finished" if run.exit_code == 0 else "failed"

    def create_run_files(self, sent: Variables) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": self._upload_url("run", sent["run"], name)} for name in sent["files"]]
        return {"createRunFiles": {"runID": sent["run"], "uploadHeaders": [], "files": files}}

    def upload(self, kind: str, of: str, name: str, body: bytes) -> None:
        text = body.decode(errors="replace")
        if kind == "manifest":
            self.artifacts[of].manifest = json.loads(text)
        else:
            (self.runs if kind == "run" else self.artifacts)[of].files[name] = text

    def create_artifact(self, sent: Variables) -> dict[str, Any]:
        """A new version; the present one where the digest is the same, as the real server does."""
        [sent] = sent.values()
        name = sent.get("artifactCollectionName") or sent["artifactCollectionNames"][0]
        versions = [each for each in self.artifacts.values() if each.name == name]
        same = [each for each in versions if each.digest == sent["digest"] and each.state == "COMMITTED"]
        number = len(self.artifacts) + 1
        made = Logged(
            id=f"artifact-{number}",
            name=name,
            type=sent["artifactTypeName"],
            project=sent["projectName"],
            digest=sent["digest"],
            client_id=sent["clientID"],
            version=len(versions),
            metadata=json.loads(sent.get("metadata") or "{}"),
            aliases=[each["alias"] for each in sent.get("aliases") or []],
        )
        artifact = same[-1] if same else self.artifacts.setdefault(made.id, made)
        if sent.get("runName") and sent["runName"] not in artifact.logged_by:  # who only uses it names no run
            artifact.logged_by.append(sent["runName"])
        sequence = {"latestArtifact": {"id": versions[-1].id} if versions else None}
        found = {"id": artifact.id, "state": artifact.state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": found}}

    def create_manifest(self, sent: Variables) -> dict[str, Any]:
        of = sent.get("artifactID") or sent["artifactManifestID"]
        url = self._upload_url("manifest", of, "wandb_manifest.json")
        file = {"id": f"manifest-{of}", "uploadUrl": url, "uploadHeaders": []}
        kind = "createArtifactManifest" if "artifactID" in sent else "updateArtifactManifest"
        return {kind: {"artifactManifest": {"id": of, "file": file}}}

    def create_artifact_files(self, sent: Variables) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": f"{each['artifactID']}/{each['name']}",
                "uploadUrl": self._upload_url("artifact", each["artifactID"], each["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": each["artifactID"]},
            }
            for each in sent["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def commit_artifact(self, sent: Variables) -> dict[str, Any]:
        artifact = self.artifacts[sent["artifactID"]]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def use_artifact(self, sent: Variables) -> dict[str, Any]:
        used = sent.get("input", sent)  # wandb-core sends an input, Python the fields
        artifact = self.artifacts[used["artifactID"]]
        if used["runName"] not in artifact.used_by:
            artifact.used_by.append(used["runName"])
        return {"useArtifact": {"artifact": self.as_graphql(artifact)}}

    def client_id_mapping(self, sent: Variables) -> dict[str, Any]:
        found = [each.id for each in self.artifacts.values() if each.client_id == sent["clientID"]]
        return {"clientIDMapping": {"serverID": found[0]} if found else None}

    def artifact_by_name(self, sent: Variables) -> dict[str, Any]:
        """`name:v2`, `name:latest`, `name:DIGEST` or `name:ALIAS`; nothing when there is none."""
        name, _, version = sent["name"].partition(":")
        found = [each for each in self.artifacts.values() if each.name == name and each.state == "COMMITTED"]
        named = [each for each in found if version in (f"v{each.version}", each.digest, *each.aliases)]
        chosen = (found if version in ("", "latest") else named)[-1:]
        collection = {"__typename": "ArtifactSequence", "name": name, "project": _project(sent["project"])}
        members = [
            {"__typename": "ArtifactCollectionMembership", "id": "m", "artifact": self.as_graphql(each)}
            | {"artifactCollection": collection, "versionIndex": each.version, "aliases": [], "createdAt": CREATED}
            for each in chosen
        ]
        return {"project": {"artifactCollectionMembership": members[0] if members else None}}

    def as_graphql(self, artifact: Logged) -> dict[str, Any]:
        project = _project(artifact.project)
        sequence = {"__typename": "ArtifactSequence", "name": artifact.name, "project": project}
        found = {"__typename": "Artifact", "id": artifact.id, "versionIndex": artifact.version, "state": artifact.state}
        found |= {"metadata": json.dumps(artifact.metadata), "digest": artifact.digest}
        found |= {"digestAlgorithm": "MANIFEST_MD5", "artifactSequence": sequence}
        found |= {"artifactType": {"name": artifact.type}, "tags": [], "aliases": []}
        found |= {"fileCount": len(artifact.files), "size": 0, "createdAt": CREATED, "updatedAt": None}
        found |= {"ttlDurationSeconds": -2, "ttlIsInherited": True, "commitHash": "c"}
        return found | {"description": None, "historyStep": None}

    def upsert_sweep(self, sent: Variables) -> dict[str, Any]:
        name = sent.get("id") or f"sweep{len(self.sweeps) + 1}"
        self.sweeps[name] = sent["config"]
        sweep = {"name": name, "project": _project(sent["projectName"])}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def sweep_with_runs(self, sent: Variables) -> dict[str, Any]:
        sweep = {"id": sent["sweep"], "name": sent["sweep"], "state": "RUNNING", "runs": {"edges": []}}
        return {"project": {"sweep": sweep | {"config": self.sweeps[sent["sweep"]]}}}

    def heartbeat(self, sent: Variables) -> dict[str, Any]:
        """The next of `agent_runs` when the agent has none running; when there is none left, the end."""
        busy = json.loads(sent.get("runState") or "{}")
        commands = [] if busy else [{"type": "exit"}]
        if self.agent_runs and not busy:
            commands = [{"type": "run", "program": "run.py", **self.agent_runs.pop(0)}]
        return {"agentHeartbeat": {"agent": {"id": "agent-1"}, "commands": json.dumps(commands)}}

    def _upload_url(self, kind: str, of: str, name: str) -> str:
        return f"{self.url}/upload/{kind}/{of}/{name.replace('/', '%2F')}"


def _viewer() -> dict[str, Any]:
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    return {"id": "user-1", "entity": ENTITY, "username": ENTITY, "email": None, "flags": "{}", "teams": teams}


def _project(name: str) -> dict[str, Any]:
    return {"id": f"p-{name}", "internalId": f"p-{name}", "name": name, "entity": {"id": "e-1", "name": ENTITY}}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # a client that was killed
                super().handle()

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            packed = self.headers.get("Content-Encoding") == "gzip"
            status, answer = server.answer(self.path, gzip.decompress(body) if packed else body)
            encoded = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server for the time of a test."""
    server = WandbServer()
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    alone = WandbServer()
    print(alone.url, flush=True)
    sys.stdin.read()
    got = {"runs": alone.runs, "artifacts": alone.artifacts}
    print(json.dumps({kind: {key: asdict(one) for key, one in each.items()} for kind, each in got.items()}))
