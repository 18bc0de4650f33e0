"""A Hugging Face Hub on this machine: the calls by which the real client pushes and fetches models.

Repositories, branches, commits, LFS uploads, redirects of large files to another host, tokens with and without the
right to write. Source: Hugging Face Hub documentation, "Hub API Endpoints", and the Git LFS batch API.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from web import QuietHandler, serving

WRITER, READER = "hf_writerwriterwriter", "hf_readerreaderreader"
_LARGE = (".keras", ".onnx", ".h5", ".bin")


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """A repository: files by commit, and commits by branch or tag, each the newest last."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str = "by hand", branch: str = "main") -> str:
        number = f"{len(self.commits)}{branch}{sorted(files)}".encode()
        digest = hashlib.sha1(number + b"".join(files[name] for name in sorted(files))).hexdigest()
        self.commits[digest] = files
        self.messages.append(message)
        self.heads[branch] = digest
        return digest

    def find(self, revision: str) -> str | None:
        revision = self.heads.get(revision, revision)
        return next((commit for commit in self.commits if len(revision) > 6 and commit.startswith(revision)), None)


class Hub:
    """What the server holds, what it was asked, and the faults that it makes.

    Attributes:
        repositories: by `owner/name`.
        uploads: contents of uploaded large files by SHA-256.
        asked: method, path and token of each request.
        statuses: the status to answer with, by a part of `METHOD path`.
        instead: what the storage sends in place of a large file.
        cuts: how many answers of the storage still break off in the middle.
        before: called before a request is answered, with `METHOD path`.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.address = ""
        self.heal()

    def heal(self) -> None:
        self.statuses: dict[str, int] = {}
        self.instead: bytes | None = None
        self.cuts = 0
        self.before: Callable[[str], None] = lambda request: None

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> str:
        """Makes a repository, and returns its commit."""
        self.repositories[name] = Repository(**options)
        return self.repositories[name].commit(files)

    @property
    def storage(self) -> str:
        """The address of the storage of large files, which is another host to the client."""
        return self.address.replace("127.0.0.1", "localhost") + "/storage"


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Gives a hub for as long as the block runs."""
    hub = Hub()

    class Handler(_Handler):
        of = hub

    with serving(Handler) as hub.address:
        yield hub


class _Handler(QuietHandler):
    protocol_version = "HTTP/1.1"
    of: Hub

    def _answer(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.where = urllib.parse.unquote(url.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.token = token
        request = f"{self.command} {self.where}"
        self.of.asked.append((self.command, self.where, token))
        self.of.before(request)
        if status := next((code for part, code in self.of.statuses.items() if part in request), None):
            return self._refuse(status, f"status {status}")
        if token not in (None, WRITER, READER):
            return self._refuse(401, "Invalid credentials in Authorization header")
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, request):
                return answer(self, *match.groups())
        return self._refuse(404, "no such route")

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _send(self, content: bytes, status: int = 200, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):  # who asked may have gone
                self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json")

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        named = {"X_Error_Code": code} if code else {}
        self._send(json.dumps({"error": message}).encode(), status, X_Error_Message=message, **named)

    def _repository(self, name: str) -> Repository | None:
        """Returns a repository that the token may read; otherwise answers as for one that does not exist."""
        found = self.of.repositories.get(name)
        if found is None or (found.private and self.token is None):
            self._refuse(404 if self.token else 401, "Repository not found", "RepoNotFound")
            return None
        return found

    def _found(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self._repository(name)
        if repository is None:
            return None
        if (commit := repository.find(revision)) is None:
            self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return repository, commit

    def _may_write(self) -> bool:
        if self.token == WRITER:
            return True
        self._refuse(403 if self.token else 401, "You don't have the rights to do this")
        return False

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may_write():
            return
        if name in self.of.repositories:
            return self._json({"error": "You already created this model repo"}, 409)
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.of.add(name, {".gitattributes": b"*.keras filter=lfs\n"}, private=private)
        self._json({"url": f"{self.of.address}/{name}", "name": name})

    def describe(self, name: str, revision: str | None) -> None:
        if (found := self._found(name, revision or "main")) is None:
            return
        repository, commit = found
        files = repository.commits[commit].items()
        siblings = [{"rfilename": path, **_listed(path, content)} for path, content in files]
        self._json({"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings})

    def tree(self, name: str, revision: str) -> None:
        if (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        files = repository.commits[commit].items()
        self._json(
            [
                {"type": "file", "path": path, "oid": git_hash(content), **_listed(path, content, "oid")}
                for path, content in files
            ]
        )

    def branch(self, name: str, branch: str) -> None:
        if self._may_write() and (found := self._found(name, "main")) is not None:
            repository, commit = found
            repository.heads[branch] = commit
            self._json({})

    def validate(self) -> None:
        header = json.loads(self.body)["content"].split("---\n")
        try:
            values = yaml.safe_load(header[1])
            assert isinstance(values, dict) and isinstance(values.get("tags", []), list)
        except Exception as error:
            return self._json({"errors": [{"message": f"bad metadata: {error}"[:80]}], "warnings": []}, 400)
        self._json({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        if not self._may_write() or (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        files = []
        for each in json.loads(self.body)["files"]:
            path, large = each["path"], each["path"].endswith(_LARGE)
            there = repository.commits[commit].get(path)
            oid = None if there is None else sha256(there) if large else git_hash(there)
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def batch(self, name: str) -> None:
        if not self._may_write():
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            href = {"href": f"{self.of.storage}/{each['oid']}?X-Amz-Signature=secret"}
            objects.append({**each, **({} if each["oid"] in self.of.uploads else {"actions": {"upload": href}})})
        self._json({"transfer": "basic", "objects": objects})

    def store(self, digest: str) -> None:
        assert sha256(self.body) == digest
        self.of.uploads[digest] = self.body
        self._send(b"")

    def commit(self, name: str, branch: str) -> None:
        if not self._may_write() or (found := self._found(name, branch)) is None:
            return
        repository, head = found
        files = dict(repository.commits[head])
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    return self._refuse(412, "A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.of.uploads[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        made = repository.commit(files, message, branch)
        self._json({"success": True, "commitOid": made, "commitUrl": f"{self.of.address}/{name}/commit/{made}"})

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (found := self._found(name, revision)) is None:
            return
        repository, commit = found
        content = repository.commits[commit].get(path)
        if content is None:
            return self._refuse(404, "Entry not found", "EntryNotFound")
        if not path.endswith(_LARGE):
            return self._send(content, ETag=f'"{git_hash(content)}"', X_Repo_Commit=commit)
        digest = sha256(content)
        self.of.uploads[digest] = content
        linked = {"X_Linked_Size": str(len(content)), "X_Linked_ETag": f'"{digest}"', "X_Repo_Commit": commit}
        self._send(b"", 302, Location=f"{self.of.storage}/{digest}?X-Amz-Signature=secret", **linked)

    def fetch(self, digest: str) -> None:
        content = self.of.uploads[digest] if self.of.instead is None else self.of.instead
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(asked[1]) if asked else 0
        part = content[begin:]
        headers = {"Content_Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if asked else {}
        sent = part
        if self.of.cuts:
            self.of.cuts -= 1
            sent, self.close_connection = part[: len(part) // 2], True
        self._send(sent, 206 if asked else 200, length=len(part), **headers)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET /api/models/{_NAME}(?:/revision/(.+))?", _Handler.describe),
    (rf"GET /api/models/{_NAME}/tree/(.+)", _Handler.tree),
    (rf"POST /api/models/{_NAME}/branch/(.+)", _Handler.branch),
    (rf"POST /api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    (rf"POST /api/models/{_NAME}/commit/(.+)", _Handler.commit),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /storage/(\w+)", _Handler.store),
    (r"GET /storage/(\w+)", _Handler.fetch),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)


def _listed(path: str, content: bytes, key: str = "sha256") -> dict[str, Any]:
    """Returns how a listing tells a file: a large one by its SHA-256, a small one by git's hash."""
    listed: dict[str, Any] = {"size": len(content)}
    if path.endswith(_LARGE):
        listed["lfs"] = {key: sha256(content), "size": len(content), "pointerSize": 134}
    if key == "sha256":
        listed["blobId"] = git_hash(content)
    return listed
