"""What the client can ask for: GraphQL nodes over the store.

Their keys, and the names of arguments, are those of W&B's schema.
"""

# ruff: noqa: N803
import json
import zlib

from wandb_server.artifact_nodes import ArtifactNodes
from wandb_server.graphql import Node, connection, node
from wandb_server.store import CREATED_AT, EVENTS, HISTORY, OUTPUT, Run, Store


class Nodes:
    """Makes the nodes of one store, with the addresses of one server."""

    def __init__(self, store: Store, base_url: str) -> None:
        self.store = store
        self.base_url = base_url
        self.artifacts = ArtifactNodes(self.run, self.project, base_url)

    def query(self) -> Node:
        """The root of all queries."""
        return node(
            "Query",
            viewer=self.viewer,
            entity=self.entity,
            serverInfo=node("ServerInfo", features=[]),  # those that newer servers have
            project=lambda name, entityName=None: self.project(entityName, name),
            model=lambda name, entityName=None: self.project(entityName, name),
            artifact=lambda id: self.artifacts.version(self.store.versions.get(id)),
            clientIDMapping=self.client_id_mapping,
        )

    def viewer(self) -> Node:
        """The user, whose key the client shows."""
        name = self.store.entity
        return node(
            "User",
            id="user",
            name=name,
            username=name,
            entity=name,
            email=f"{name}@localhost",
            admin=False,
            flags="{}",
            deletedAt=None,
            apiKeys=connection([]),
            teams=connection([]),
        )

    def entity(self, name: str) -> Node:
        return node(
            "Entity", id=f"entity:{name}", name=name, organization=None, xxhashDigestsEnabled=False
        )

    def client_id_mapping(self, clientID: str) -> Node | None:
        version = self.store.clients.get(clientID)
        return version and node("ClientIDMapping", serverID=version.id)

    def project(self, entity: str | None, name: str | None) -> Node:
        """A project: they are all there, empty until a run comes."""
        home = self.store.home(entity, name)
        entity, name = home

        def find_run(name: str, missingOk: bool = True) -> Node | None:
            return self.run(self.store.runs.get((*home, name)))

        return node(
            "Project",
            id=f"project:{entity}/{name}",
            internalId=project_number(home),
            name=name,
            entity=self.entity(entity),
            run=find_run,
            bucket=find_run,
            artifact=lambda name: self.artifacts.version(self.store.named(home, name)),
            artifactType=lambda name: self.artifacts.kind(self.store.collections(home), name),
            artifactCollection=lambda name: self.artifacts.collection(
                self.store.artifacts.get((*home, name))
            ),
            artifactCollectionMembership=lambda name: self.artifacts.membership(
                self.store.named(home, name)
            ),
        )

    def run(self, run: Run | None) -> Node | None:
        if run is None:
            return None
        lines, told = run.lines, run.told
        return node(
            "Run",
            id=run.storage_id,
            name=run.id,
            displayName=run.name,
            description=told.get("description"),
            notes=told.get("notes"),
            tags=told.get("tags") or [],
            group=told.get("groupName"),
            jobType=told.get("jobType"),
            commit=told.get("commit"),
            sweepName=None,
            readOnly=False,
            createdAt=CREATED_AT,
            heartbeatAt=CREATED_AT,
            user=self.viewer,
            state=run.state,
            config=run.config_json,
            summaryMetrics=run.summary_json,
            systemMetrics="{}",
            historyKeys=None,
            wandbConfig=lambda keys: json.dumps({"t": {}}),
            historyLineCount=len(lines[HISTORY]),
            eventsLineCount=len(lines[EVENTS]),
            logLineCount=len(lines[OUTPUT]),
            historyTail=json.dumps(lines[HISTORY][-1:]),
            eventsTail=json.dumps(lines[EVENTS][-1:]),
            projectId=project_number((run.entity, run.project)),
            project=lambda: self.project(run.entity, run.project),
            inputArtifacts=lambda after, first: self.artifacts.versions(run.inputs),
            outputArtifacts=lambda after, first: self.artifacts.versions(run.outputs),
        )


def project_number(home: tuple[str, str]) -> str:
    """The client wants digits here."""
    return str(zlib.crc32("/".join(home).encode()))
