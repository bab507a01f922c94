"""What the client can change. Names of inputs and answers are those of W&B's schema."""

import json
from typing import Any
from urllib.parse import quote

from wandb_server.graphql import Node, connection, node
from wandb_server.nodes import Nodes
from wandb_server.store import Collection, RefusedError, Run, RunKey, Store, Version

Input = dict[str, Any]


class Mutations:
    """Changes one store."""

    def __init__(self, store: Store, nodes: Nodes) -> None:
        self.store = store
        self.nodes = nodes

    def mutation(self) -> Node:
        """The root of all mutations."""
        return node(
            "Mutation",
            upsertBucket=self.upsert_run,
            createRunFiles=self.create_run_files,
            createArtifact=self.create_artifact,
            createArtifactManifest=self.create_manifest,
            createArtifactFiles=self.create_artifact_files,
            commitArtifact=self.commit_artifact,
            useArtifact=self.use_artifact,
            updateArtifact=self.update_artifact,
            deleteArtifact=self.delete_artifact,
            addAliases=self.add_aliases,
            deleteAliases=self.delete_aliases,
        )

    def upsert_run(self, input: Input) -> Node:
        told = {name: value for name, value in input.items() if value is not None}
        entity, project = self.store.home(told.get("entityName"), told.get("modelName"))
        if entity != self.store.entity:
            raise PermissionError("permission denied")
        key = (entity, project, told["name"])
        is_new = key not in self.store.runs
        run = self.store.runs.setdefault(key, Run(*key, name=key[-1]))
        run.state = "running"
        run.config_json = told.pop("config", run.config_json)
        run.summary_json = told.pop("summaryMetrics", run.summary_json)
        run.name = told.get("displayName", run.name)
        run.told |= told
        return node("Payload", bucket=self.nodes.run(run), inserted=is_new)

    def create_run_files(self, input: Input) -> Node:
        run = self.store.runs[run_key(input)]
        folder = f"{self.nodes.base_url}/run-files/{'/'.join(run.key)}"
        files = [
            node("File", name=name, uploadUrl=f"{folder}/{quote(name, safe='')}")
            for name in input["files"]
        ]
        return node("Payload", runID=run.storage_id, uploadHeaders=[], files=files)

    def create_artifact(self, input: Input) -> Node:
        run = self.store.runs[run_key(input)]
        kind = input["artifactTypeName"]
        key = (run.entity, run.project, input["artifactCollectionName"])
        collection = self.store.artifacts.setdefault(key, Collection(*key, kind))
        if collection.type != kind:
            raise RefusedError(f"{collection.name} is of type {collection.type}, not {kind}")
        aliases = [alias["alias"] for alias in input["aliases"]]
        version = collection.with_digest(input["digest"])
        if version is None:
            version = Version(
                id=f"artifact{len(self.store.versions)}",
                collection=collection,
                index=collection.made,
                digest=input["digest"],
                metadata=json.loads(input.get("metadata") or "{}"),
                description=input.get("description"),
                logged_by=run,
                wanted_aliases=aliases,
            )
            self.store.versions[version.id] = version
            collection.add(version)
        else:
            collection.name_version(version, aliases)  # its content was here before
        self.store.clients[input["clientID"]] = version
        return node("CreateArtifactPayload", artifact=self.nodes.artifacts.version(version))

    def create_manifest(self, input: Input) -> Node:
        if input["type"] != "FULL":
            raise RefusedError(f"manifests of type {input['type']} are not supported here")
        version = self.store.version(input["artifactID"])
        return node("Payload", artifactManifest=self.nodes.artifacts.manifest(version))

    def create_artifact_files(self, input: Input) -> Node:
        files = [
            self.nodes.artifacts.file(self.store.version(wanted["artifactID"]), wanted["name"])
            for wanted in input["artifactFiles"]
        ]
        return node("Payload", files=connection(files))

    def commit_artifact(self, input: Input) -> Node:
        version = self.store.version(input["artifactID"])
        version.require_whole()
        version.collection.commit(version)
        return self.changed(version)

    def use_artifact(self, input: Input) -> Node:
        run = self.store.runs[run_key(input)]
        version = self.store.version(input["artifactID"])
        if version not in run.inputs:
            run.inputs.append(version)
            version.used_by.append(run)
        return self.changed(version)

    def update_artifact(self, input: Input) -> Node:
        version = self.store.version(input["artifactID"])
        version.description = input.get("description", version.description)
        if input.get("metadata") is not None:
            version.metadata = json.loads(input["metadata"])
        return self.changed(version)

    def delete_artifact(self, input: Input) -> Node:
        version = self.store.version(input["artifactID"])
        if version.aliases and not input.get("deleteAliases"):
            raise RefusedError(f"{version.name} still has the aliases {version.aliases}")
        version.collection.remove(version)
        return self.changed(version)

    def changed(self, version: Version) -> Node:
        return node("Payload", artifact=self.nodes.artifacts.version(version))

    def add_aliases(self, input: Input) -> Node:
        version = self.store.version(input["artifactID"])
        version.collection.name_version(version, [alias["alias"] for alias in input["aliases"]])
        return node("Payload", success=True)

    def delete_aliases(self, input: Input) -> Node:
        version = self.store.version(input["artifactID"])
        gone = [alias["alias"] for alias in input["aliases"]]
        version.aliases = [alias for alias in version.aliases if alias not in gone]
        return node("Payload", success=True)


def run_key(input: Input) -> RunKey:
    return input["entityName"], input["projectName"], input["runName"]
