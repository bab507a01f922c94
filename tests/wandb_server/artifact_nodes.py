"""Artifacts as GraphQL nodes; keys and names of arguments are those of W&B's schema."""

# ruff: noqa: N803
import json
from collections.abc import Callable, Iterable
from urllib.parse import quote

from wandb_server.graphql import Node, connection, node
from wandb_server.store import CREATED_AT, Collection, Run, Version


class ArtifactNodes:
    """Makes the nodes of artifacts.

    Args:
        run: makes the node of a run.
        project: makes the node of an entity's project.
        base_url: where files lie.
    """

    def __init__(
        self,
        run: Callable[[Run | None], Node | None],
        project: Callable[[str, str], Node],
        base_url: str,
    ) -> None:
        self.run = run
        self.project = project
        self.base_url = base_url

    def kind(self, collections: Iterable[Collection], name: str) -> Node:
        """A project's artifacts of one type."""
        by_name = {c.name: c for c in collections if c.type == name}
        return node(
            "ArtifactType",
            id=f"type:{name}",
            name=name,
            description=None,
            createdAt=CREATED_AT,
            artifactCollection=lambda name: self.collection(by_name.get(name)),
        )

    def collection(self, collection: Collection | None) -> Node | None:
        if collection is None:
            return None
        newest_first = [v for v in collection.versions[::-1] if v.state == "COMMITTED"]
        return node(
            "ArtifactSequence",
            id="/".join((collection.entity, collection.project, collection.name)),
            name=collection.name,
            description=None,
            createdAt=CREATED_AT,
            updatedAt=CREATED_AT,
            digestAlgorithm="MANIFEST_MD5",
            project=lambda: self.project(collection.entity, collection.project),
            defaultArtifactType=self.kind([], collection.type),
            tags=connection([]),
            latestArtifact=lambda: self.version(collection.version("latest")),
            artifacts=lambda after, first, order=None, filters=None: self.versions(newest_first),
            artifactMembership=lambda aliasName: self.membership(collection.version(aliasName)),
        )

    def membership(self, version: Version | None) -> Node | None:
        """A version as one of its collection."""
        if version is None:
            return None
        return node(
            "ArtifactCollectionMembership",
            id=f"membership:{version.id}",
            versionIndex=version.index,
            createdAt=CREATED_AT,
            aliases=self.aliases(version),
            artifactCollection=self.collection(version.collection),
            artifact=self.version(version),
            files=lambda after, first: self.files(version, version.files),
        )

    def aliases(self, version: Version) -> list[Node]:
        collection = self.collection(version.collection)
        return [
            node(
                "ArtifactAlias",
                id=f"alias:{version.id}:{alias}",
                alias=alias,
                artifactCollection=collection,
            )
            for alias in version.aliases
        ]

    def versions(self, versions: list[Version]) -> Node:
        listed = connection(self.version(version) for version in versions)
        for version, edge in zip(versions, listed["edges"], strict=True):
            edge["version"] = f"v{version.index}"
        return listed

    def version(self, version: Version | None) -> Node | None:
        if version is None:
            return None
        return node(
            "Artifact",
            id=version.id,
            artifactSequence=lambda: self.collection(version.collection),
            versionIndex=version.index,
            artifactType=self.kind([], version.collection.type),
            description=version.description,
            metadata=json.dumps(version.metadata),
            ttlDurationSeconds=-2,  # none
            ttlIsInherited=False,
            tags=[],
            historyStep=None,
            state=version.state,
            size=sum(map(len, version.files.values())),
            digest=version.digest,
            digestAlgorithm="MANIFEST_MD5",
            commitHash=version.id,
            fileCount=len(version.files),
            createdAt=CREATED_AT,
            updatedAt=CREATED_AT,
            aliases=lambda: self.aliases(version),
            currentManifest=lambda: self.manifest(version),
            createdBy=lambda: self.run(version.logged_by),
            usedBy=lambda: connection(self.run(run) for run in version.used_by),
            filesByManifestEntries=lambda entries, **layout: self.files(
                version, [entry["name"] for entry in entries]
            ),
        )

    def manifest(self, version: Version) -> Node:
        url = f"{self.base_url}/artifact-manifests/{version.id}"
        file = node("File", id=version.id, directUrl=url, uploadUrl=url, uploadHeaders=[])
        return node("ArtifactManifest", id=version.id, file=file)

    def files(self, version: Version, names: Iterable[str]) -> Node:
        return connection(self.file(version, name) for name in names)

    def file(self, version: Version, name: str) -> Node:
        url = f"{self.base_url}/artifact-files/{version.id}/{quote(name, safe='')}"
        return node(
            "File",
            id=f"file:{version.id}/{name}",
            name=name,
            storagePath=name,
            directUrl=url,
            uploadUrl=url,
            uploadHeaders=[],
            uploadMultipartUrls=None,
            artifact=lambda: self.version(version),
        )
