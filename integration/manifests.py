"""The manifests of examples/kubernetes: built, validated, and their containers run by a Docker engine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from integration.rig import peers
from integration.rig.engine import Dockerd
from integration.rig.golang import KUBERNETES
from integration.shell import REPOSITORY_ROOT

FOLDER = REPOSITORY_ROOT / "examples/kubernetes"
Resource = dict[str, Any]


def build(name: str) -> str:
    """Return what `kustomize build` prints for "base" or an overlay."""
    done = subprocess.run(
        [peers.kustomize(), "build", FOLDER / name], capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode()


def resources(name: str) -> dict[str, Resource]:
    """Return the resources by "kind/name"."""
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(build(name))}


def pod_of(resource: Resource) -> Resource:
    """Return the spec of the pods of a DaemonSet or a CronJob."""
    spec = resource["spec"]
    if resource["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod: Resource = spec["template"]["spec"]
    return pod


# --- validation -------------------------------------------------------------------------------------------


@cache
def _definitions() -> dict[str, Resource]:
    """Return Kubernetes' own definitions of its API, as strict as its server is with `--validate=strict`."""
    path = peers.module(KUBERNETES) / "api/openapi-spec/swagger.json"
    found: dict[str, Resource] = json.loads(path.read_text())["definitions"]
    for definition in found.values():
        if "properties" in definition:
            definition["additionalProperties"] = False
    # The specification calls it a string with a format that validators do not know.
    found["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    return found


def write_schemas(folder: Path) -> str:
    """Write a schema for each kind with a version; return their location for kubeconform."""
    definitions = _definitions()
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            group = kind["group"] or kind["version"]  # so does kubeconform
            file = folder / f"{group}-{kind['version']}-{kind['kind'].lower()}.json"
            needed = {one: definitions[one] for one in _below(name, set())}
            file.write_text(json.dumps({"$ref": f"#/definitions/{name}", "definitions": needed}))
    return f"{folder}/{{{{ .Group }}}}-{{{{ .ResourceAPIVersion }}}}-{{{{ .ResourceKind }}}}.json"


def _below(name: str, seen: set[str]) -> set[str]:
    """Return the names of all definitions that a definition refers to, and its own."""
    if name not in seen:
        seen.add(name)
        for part in json.dumps(_definitions()[name]).split('"#/definitions/')[1:]:
            _below(part.partition('"')[0], seen)
    return seen


def validate(text: str, schemas: str) -> list[Resource]:
    """Return what kubeconform says of each resource: "kind", "status", "msg"."""
    done = subprocess.run(
        [peers.kubeconform(), "-strict", "-verbose", "-output", "json", "-schema-location", schemas, "-"],
        input=text.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    found: list[Resource] = json.loads(done.stdout)["resources"]
    return found


# --- running ----------------------------------------------------------------------------------------------


@dataclass
class NodeFiles:
    """What the node has instead of the volumes' host paths and objects of the cluster."""

    host_paths: Mapping[str, Path]
    config_maps: Mapping[str, Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Values that replace those of the manifest."""


class Kubelet:
    """Runs the containers of a pod in a Docker engine, with the rights that the manifest gives them.

    Their image has this machine's Python and pyctrd by read-only mounts.
    """

    def __init__(self, dockerd: Dockerd, image: str, node: NodeFiles) -> None:
        self._dockerd = dockerd
        self._image = image
        self._node = node
        dockerd.docker("import", "-", image, stdin=_links())

    def run(self, pod: Resource, container: Resource) -> subprocess.CompletedProcess[bytes]:
        """Run a container until it ends."""
        return self._dockerd.docker("run", "--rm", *self._arguments(pod, container), check=False)

    @contextmanager
    def running(self, pod: Resource, container: Resource) -> Iterator[str]:
        """Start a container; yields its id."""
        started = self._dockerd.docker("run", "--detach", *self._arguments(pod, container))
        name = started.stdout.decode().strip()
        try:
            yield name
        finally:
            self._dockerd.docker("rm", "--force", name)

    def _arguments(self, pod: Resource, container: Resource) -> list[str]:
        assert container["image"] == self._image
        rights = {**pod["securityContext"], **container["securityContext"]}
        assert rights.pop("seccompProfile") == {"type": "RuntimeDefault"}  # Docker's own by default
        assert rights.pop("allowPrivilegeEscalation") is False
        assert rights.pop("readOnlyRootFilesystem") is True
        assert rights.pop("capabilities") == {"drop": ["ALL"]}
        user = f"{rights.pop('runAsUser')}:{rights.pop('runAsGroup')}"
        assert not rights, "rights that this does not know"
        words: list[str] = [*container["command"], *container.get("args", ())]
        return [
            *("--user", user, "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"),
            *("--network", "host" if pod.get("hostNetwork") else "none"),
            *("--memory", container["resources"]["limits"]["memory"].replace("Mi", "m")),
            *self._environment(container),
            *self._volumes(pod, container),
            *("--entrypoint", words[0], self._image),
            *words[1:],
        ]

    def _environment(self, container: Resource) -> Iterator[str]:
        values = {one["name"]: one["value"] for one in container.get("env", ())}
        values.update((name, value) for name, value in self._node.environment.items() if name in values)
        for name, value in {**values, "PATH": f"{sys.prefix}/bin:/usr/bin"}.items():
            yield from ("--env", f"{name}={value}")

    def _volumes(self, pod: Resource, container: Resource) -> Iterator[str]:
        for folder in dict.fromkeys(("/usr", sys.base_prefix, sys.prefix, str(REPOSITORY_ROOT))):
            yield from ("--volume", f"{folder}:{folder}:ro")
        volumes = {one["name"]: one for one in pod["volumes"]}
        for mount in container.get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            if "secret" in volume:
                assert volume["secret"]["optional"], "there is none here"
                continue
            if "hostPath" in volume:
                source = self._node.host_paths[volume["hostPath"]["path"]]
            else:
                source = self._node.config_maps[volume["configMap"]["name"]]
            mode = "ro" if mount.get("readOnly") else "rw"
            yield from ("--volume", f"{source}:{mount['mountPath']}:{mode}")


def _links() -> bytes:
    """Return the root file system of the image, without what is mounted: Debian's links into /usr."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as tar:
        for name in ("bin", "lib", "lib64"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(entry)
    return found.getvalue()
