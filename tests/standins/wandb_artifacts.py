"""What the loopback W&B server answers a client that sends an artifact: one version each, its files as a run's files.

The unpleasant habit that it keeps: a manifest is asked for twice, and its first address holds nothing that lasts. It is
kinder than the real server: nothing is deduplicated, and an artifact is committed at once.
"""

import urllib.parse
from collections.abc import Mapping
from typing import Any

from tests.standins.wandb_records import Run, storage_id
from tests.standins.wandb_state import Refusal, State

Node = dict[str, Any]


def artifact_mutations(state: State, url: str) -> Node:
    """Return the fields of a mutation that speak of artifacts; each takes one `input`."""

    def of(sent: Mapping[str, Any]) -> tuple[Run, str]:
        run, name = state.artifacts.get(sent["artifactID"], (None, ""))
        if run is None:
            raise Refusal(404, "artifact not found", "artifact")
        return run, name

    def place(run: Run, name: str) -> str:
        return f"{url}/storage/{run.entity}/{run.project}/{run.name}/{urllib.parse.quote(name)}"

    def create(arguments: Mapping[str, Any]) -> Node:
        sent = arguments["input"]
        run = state.find_run(sent.get("entityName"), sent.get("projectName"), sent["runName"])
        if run is None:
            raise Refusal(404, f"run {sent['runName']} not found", "createArtifact")
        name = sent.get("artifactCollectionName") or sent["artifactCollectionNames"][0]
        found = storage_id("Artifact", f"{run.name}/{name}")
        state.artifacts[found] = (run, f"artifacts/{name}")
        sequence = {"id": found, "latestArtifact": None}
        return {"artifact": {"id": found, "state": "PENDING", "artifactSequence": sequence}}

    def manifest(arguments: Mapping[str, Any]) -> Node:
        run, name = of(arguments["input"])
        path = f"{name}/wandb_manifest.json"
        return {"artifactManifest": {"id": arguments["input"]["artifactID"], "file": {
            "id": path, "name": path, "displayName": path, "uploadUrl": place(run, path), "uploadHeaders": []}}}

    def files(arguments: Mapping[str, Any]) -> Node:
        nodes = []
        for wanted in arguments["input"]["artifactFiles"]:
            run, name = of(wanted)
            path = f"{name}/{wanted['name']}"
            nodes.append({"id": path, "name": wanted["name"], "displayName": wanted["name"], "storagePath": path,
                          "uploadUrl": place(run, path), "uploadHeaders": [], "uploadMultipartUrls": None,
                          "artifact": {"id": wanted["artifactID"]}})
        return {"files": {"edges": [{"node": node} for node in nodes]}}

    def commit(arguments: Mapping[str, Any]) -> Node:
        of(arguments["input"])
        return {"artifact": {"id": arguments["input"]["artifactID"], "digest": "", "state": "COMMITTED"}}

    return {"createArtifact": create, "createArtifactManifest": manifest, "updateArtifactManifest": manifest,
            "createArtifactFiles": files, "commitArtifact": commit}
