"""What the server keeps: runs, with their rows and files, and artifacts, with their versions."""

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

RunKey = tuple[str, str, str]
"""Entity, project, and the id of a run or the name of an artifact."""

HISTORY, EVENTS, OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "output.log"
SUMMARY = "wandb-summary.json"
CREATED_AT = "2026-01-01T00:00:00Z"
"""Of everything: nothing that is tested asks for times."""


class RefusedError(Exception):
    """What was asked for cannot be done: the client hears why."""


@dataclass(eq=False, repr=False)
class Run:
    """One run, as a test wants to read it."""

    entity: str
    project: str
    id: str
    name: str
    state: Literal["running", "finished", "failed"] = "running"
    exit_code: int | None = None
    config_json: str = "{}"
    summary_json: str = "{}"
    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """What was streamed, by file."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded, by its path in the run: media/images/..., config.yaml, ..."""
    inputs: list["Version"] = field(default_factory=list)
    outputs: list["Version"] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    """What else the client told of the run, under W&B's names: notes, tags, groupName, ..."""

    @property
    def key(self) -> RunKey:
        return self.entity, self.project, self.id

    @property
    def storage_id(self) -> str:
        return f"run:{'/'.join(self.key)}"

    @property
    def config(self) -> dict[str, Any]:
        """The user's settings, without what the client adds under `_wandb`."""
        entries = json.loads(self.config_json).items()
        return {key: entry["value"] for key, entry in entries if key != "_wandb"}

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of each metric; `_step`, `_runtime` and the like are the client's."""
        return json.loads(self.summary_json)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row a step."""
        return [json.loads(line) for line in self.lines[HISTORY]]

    def stream(self, file: str, offset: int, content: list[str]) -> None:
        """Take streamed lines in, as from this line on."""
        if file == SUMMARY:
            self.summary_json = content[-1]
            return
        lines = self.lines[file]
        if offset > len(lines):
            raise RefusedError(f"{file} has {len(lines)} lines, and line {offset} came next")
        lines[offset : offset + len(content)] = content

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self.state = "failed" if exit_code else "finished"


@dataclass(eq=False, repr=False)
class Version:
    """One version of an artifact."""

    id: str
    collection: "Collection"
    index: int
    digest: str
    metadata: dict[str, Any]
    description: str | None
    logged_by: Run
    wanted_aliases: list[str]
    """Those that it gets when it is whole."""
    state: Literal["PENDING", "COMMITTED", "DELETED"] = "PENDING"
    aliases: list[str] = field(default_factory=list)
    manifest: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    used_by: list[Run] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.collection.name}:v{self.index}"

    def require_whole(self) -> None:
        """Hold the files against the checksums in the manifest."""
        for name, entry in json.loads(self.manifest)["contents"].items():
            found = hashlib.md5(self.files.get(name, b"")).digest()
            if "ref" not in entry and base64.b64encode(found).decode() != entry["digest"]:
                raise RefusedError(f"{self.name}: {name} did not arrive as the manifest says")


@dataclass(eq=False, repr=False)
class Collection:
    """All versions of one artifact, in the order of their making; deleted ones are gone."""

    entity: str
    project: str
    name: str
    type: str
    versions: list[Version] = field(default_factory=list)
    made: int = 0
    """How many versions there ever were: the number of the next one."""

    def version(self, alias: str) -> Version | None:
        """The version that is called so: by an alias, or v0, v1, ..."""
        committed = (version for version in self.versions if version.state == "COMMITTED")
        return next((v for v in committed if alias in (*v.aliases, f"v{v.index}")), None)

    def with_digest(self, digest: str) -> Version | None:
        """The version that holds the same."""
        committed = (version for version in self.versions if version.state == "COMMITTED")
        return next((version for version in committed if version.digest == digest), None)

    def add(self, version: Version) -> None:
        self.made += 1
        self.versions.append(version)
        version.logged_by.outputs.append(version)

    def name_version(self, named: Version, aliases: list[str]) -> None:
        """Give a version these aliases; whoever had one loses it."""
        for version in self.versions:
            version.aliases = [alias for alias in version.aliases if alias not in aliases]
        named.aliases += aliases

    def commit(self, version: Version) -> None:
        """Make a version known: only now can it be found."""
        version.state = "COMMITTED"
        self.name_version(version, list(dict.fromkeys([*version.wanted_aliases, "latest"])))

    def remove(self, version: Version) -> None:
        version.state = "DELETED"
        version.aliases = []
        self.versions.remove(version)
        version.logged_by.outputs.remove(version)


@dataclass
class Store:
    """Everything, by its key."""

    entity: str
    """The user: whose projects they are where the client names no entity."""
    runs: dict[RunKey, Run] = field(default_factory=dict)
    artifacts: dict[RunKey, Collection] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    """Every version by its id, the deleted ones too."""
    clients: dict[str, Version] = field(default_factory=dict)
    """Versions by the ids that clients gave them before they heard of ours."""

    def home(self, entity: str | None, project: str | None) -> tuple[str, str]:
        return entity or self.entity, project or "uncategorized"

    def collections(self, home: tuple[str, str]) -> Iterator[Collection]:
        """A project's artifacts."""
        return (c for c in self.artifacts.values() if (c.entity, c.project) == home)

    def named(self, home: tuple[str, str], name: str) -> Version | None:
        """Look a version up by `name:alias`."""
        name, _, alias = name.partition(":")
        collection = self.artifacts.get((*home, name))
        return collection and collection.version(alias)

    def version(self, id: str) -> Version:
        version = self.versions.get(id)
        if version is None or version.state == "DELETED":
            raise RefusedError(f"there is no artifact {id}")
        return version
