"""A Hub on the loopback interface, for tests that push and load for real.

Nothing is replaced on the client's side: a subprocess started with `LocalHub.env` runs the
unmodified `huggingface_hub` against this server. (A subprocess, because that library reads its
environment once, at import.) Repositories live in memory and end with the server.

It speaks what models need (create, preupload, LFS, commit, info, tree, resolve, whoami,
validate-yaml) and refuses the rest by name.

Notation: a repository is named by its `repo_id`, "user/name"; a tree is `{path: content}`; an oid
is the SHA-256 of a large file's content, as Git LFS names it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER = "tester"
LARGE_FILES = (".safetensors", ".bin", ".pt", ".pth", ".parquet")  # what goes through LFS
NO_COMMIT = "0" * 40
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")

_API_REPO = r"/api/models/(?P<repo_id>[^/]+/[^/]+)"
_URL_REPO = r"/(?P<repo_id>[^/]+/[^/]+)"


class HubError(Exception):
    """A refusal that the client knows by its `X-Error-Code`, such as `RepoNotFound`."""

    def __init__(self, code: str, status: int = 404):
        super().__init__(code)
        self.code, self.status = code, status


@dataclass(frozen=True)
class Reply:
    """What a route answers: bytes as they are, everything else as JSON."""

    body: object = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Repository:
    """The linear history of one repository: every commit keeps its whole tree."""

    private: bool = False
    trees: dict[str, dict[str, bytes]] = field(default_factory=lambda: {NO_COMMIT: {}})

    def resolve(self, revision: str) -> str:
        """The commit that `revision` ("main" or a commit) names."""
        commit = list(self.trees)[-1] if revision == "main" else revision
        if commit not in self.trees:
            raise HubError("RevisionNotFound")
        return commit

    def commit(self, lines: bytes, blobs: Mapping[str, bytes]) -> str:
        """Apply one newline-delimited JSON commit, the Hub's own format, and return its name."""
        tree = dict(self.trees[self.resolve("main")])
        for line in lines.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                tree[value["path"]] = blobs[value["oid"]]
            elif key == "deletedFile":
                del tree[value["path"]]
            elif key == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                tree = {path: c for path, c in tree.items() if not path.startswith(folder)}
            elif key != "header":
                raise HubError(f"UnknownOperation-{key}", status=400)
        commit = hashlib.sha1(lines + str(len(self.trees)).encode()).hexdigest()
        self.trees[commit] = tree
        return commit


class LocalHub:
    """A running Hub; use it as a context manager.

    Args:
        home: an empty folder that becomes `HF_HOME` of the subprocesses, so that nothing of the
            caller's cache is read or written.
    """

    def __init__(self, home: Path):
        self.home = home
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    def __enter__(self) -> LocalHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True  # a client that keeps its connection must not hold us
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The endpoint, `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a subprocess that is to push to and load from this Hub."""
        inherited = {k: v for k, v in os.environ.items() if k not in OFFLINE_SWITCHES}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": "dummy",
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",  # xet needs a content-addressed store; LFS does not
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def files(self, repo_id: str) -> dict[str, bytes]:
        """The tree at the head of a repository; an error that names it where there is none."""
        if repo_id not in self.repositories:
            known = sorted(self.repositories)
            raise KeyError(f"no repository {repo_id!r} was pushed; there are {known}")
        repository = self.repositories[repo_id]
        return dict(repository.trees[repository.resolve("main")])


class _Handler(BaseHTTPRequestHandler):
    """One request: find the route, answer, turn a `HubError` into the Hub's error headers."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Quiet: `LocalHub.requests` keeps the log."""

    def dispatch(self) -> None:
        """Answer whatever came, HEAD like GET without its body."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self._read_body()
        self.hub.requests.append((self.command, path))
        try:
            reply = self._route(path, body)
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.code}
            reply = Reply({"error": error.code}, error.status, headers)
        is_bytes = isinstance(reply.body, bytes)
        content = reply.body if is_bytes else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", f"application/{'octet-stream' if is_bytes else 'json'}")
        self.send_header("Content-Length", str(len(content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _route(self, path: str, body: bytes) -> Reply:
        method = "GET" if self.command == "HEAD" else self.command
        for verb, pattern, answer in _ROUTES:
            if verb == method and (match := re.fullmatch(pattern, path)):
                return answer(self, body=body, **match.groupdict())
        raise HubError("NoSuchRoute")

    def _repository(self, repo_id: str) -> Repository:
        if repo_id not in self.hub.repositories:
            raise HubError("RepoNotFound")
        return self.hub.repositories[repo_id]

    def whoami(self, body: bytes) -> Reply:
        token = {"type": "access_token", "accessToken": {"role": "write"}}
        return Reply({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": token})

    def validate_yaml(self, body: bytes) -> Reply:
        return Reply({"errors": [], "warnings": []})

    def create(self, body: bytes) -> Reply:
        request = json.loads(body)
        if request.get("type", "model") != "model":
            raise HubError(f"OnlyModelsAreServed-not-{request['type']}", status=400)
        repo_id = f"{request.get('organization') or USER}/{request['name']}"
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repositories:
            return Reply({"error": "You already created this repo", "url": url}, status=409)
        self.hub.repositories[repo_id] = Repository(private=request.get("visibility") == "private")
        return Reply({"url": url, "name": repo_id, "id": repo_id})

    def preupload(self, body: bytes, repo_id: str, revision: str) -> Reply:
        self._repository(repo_id).resolve(revision)
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = ["lfs" if path.endswith(LARGE_FILES) else "regular" for path in paths]
        files = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False}
            for path, mode in zip(paths, modes, strict=True)
        ]
        return Reply({"files": files})

    def lfs_batch(self, body: bytes, repo_id: str) -> Reply:
        self._repository(repo_id)
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            objects.append(entry)
        return Reply({"transfer": "basic", "objects": objects})

    def lfs_upload(self, body: bytes, oid: str) -> Reply:
        if hashlib.sha256(body).hexdigest() != oid:
            raise HubError("ContentIsNotItsOid", status=400)
        self.hub.blobs[oid] = body
        return Reply()

    def commit(self, body: bytes, repo_id: str, revision: str) -> Reply:
        if revision != "main":
            raise HubError("OnlyMainCanBeCommittedTo", status=400)
        commit = self._repository(repo_id).commit(body, self.hub.blobs)
        url = f"{self.hub.url}/{repo_id}/commit/{commit}"
        return Reply({"commitUrl": url, "commitOid": commit, "success": True})

    def info(self, body: bytes, repo_id: str, revision: str | None = None) -> Reply:
        repository = self._repository(repo_id)
        commit = repository.resolve(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(repository.trees[commit])]
        known = {"id": repo_id, "sha": commit, "private": repository.private, "tags": []}
        return Reply(known | {"siblings": siblings})

    def tree(self, body: bytes, repo_id: str, revision: str) -> Reply:
        repository = self._repository(repo_id)
        tree = repository.trees[repository.resolve(revision)]
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
            for path, content in sorted(tree.items())
        ]
        return Reply(entries)

    def file(self, body: bytes, repo_id: str, revision: str, path: str) -> Reply:
        repository = self._repository(repo_id)
        commit = repository.resolve(revision)
        if path not in repository.trees[commit]:
            raise HubError("EntryNotFound")
        content = repository.trees[commit][path]
        return Reply(content, headers={"X-Repo-Commit": commit, "ETag": f'"{_etag(content)}"'})


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


_ROUTES = (
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", _API_REPO + r"/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", _API_REPO + r"/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", _URL_REPO + r"\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    ("GET", _API_REPO, _Handler.info),
    ("GET", _API_REPO + r"/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", _API_REPO + r"/tree/(?P<revision>[^/]+)", _Handler.tree),
    ("GET", _URL_REPO + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.file),
)
