"""The generated stubs: importable from anywhere, in a pool of their own, no newer than the floors."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import pkgutil
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pyctrd.protos
from pyctrd.protos.services.content.v1 import content_pb2
from pyctrd.protos.services.images.v1 import images_pb2

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "pyctrd" / "protos"
MODULES = sorted(
    info.name for info in pkgutil.walk_packages(pyctrd.protos.__path__, "pyctrd.protos.") if not info.ispkg
)

FOREIGN_REGISTRATION = """
from google.protobuf import descriptor_pb2, descriptor_pool
file = descriptor_pb2.FileDescriptorProto(name={name!r}, package="containerd.types", syntax="proto3")
field = file.message_type.add(name="Descriptor").field.add(name="other", number=9)
field.type, field.label = field.TYPE_BYTES, field.LABEL_OPTIONAL
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
"""
IMPORT_ALL = "import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
ROUND_TRIP = """
from google.protobuf import descriptor_pool, message_factory
from pyctrd.protos.types import descriptor_pb2
ours = descriptor_pb2.Descriptor.FromString(descriptor_pb2.Descriptor(digest="sha256:00").SerializeToString())
assert ours.digest == "sha256:00"
found = descriptor_pool.Default().FindMessageTypeByName("containerd.types.Descriptor")
theirs = message_factory.GetMessageClass(found)
assert theirs(other=b"x").other == b"x"
assert theirs is not descriptor_pb2.Descriptor
"""


def run_python(program: str, implementation: str = "upb") -> None:
    # In a separate process, since the default pool of this one cannot be cleared.
    environment = {
        **os.environ,
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


def read_stubs(pattern: str) -> str:
    return "\n".join(path.read_text() for path in sorted(STUBS.rglob(pattern)))


def floor(package: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = {
        requirement.name: requirement for requirement in map(Requirement, project["dependencies"])
    }
    (minimum,) = (part.version for part in requirements[package].specifier if part.operator == ">=")
    return minimum


def test_every_service_has_stubs() -> None:
    services = {name.split(".")[3] for name in MODULES if name.endswith("_pb2_grpc")}
    assert services == {
        "containers",
        "content",
        "diff",
        "events",
        "images",
        "introspection",
        "leases",
        "namespaces",
        "snapshots",
        "streaming",
        "transfer",
        "version",
    }


@pytest.mark.parametrize("name", MODULES)
def test_modules_can_be_imported(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__name__ == name


def test_messages_can_be_pickled() -> None:
    image = images_pb2.Image(name="docker.io/library/alpine:latest", labels={"a": "1"})
    assert images_pb2.Image.__module__ == "pyctrd.protos.services.images.v1.images_pb2"
    assert pickle.loads(pickle.dumps(image)) == image


def test_well_known_types_can_be_set_in_place() -> None:
    request = content_pb2.UpdateRequest()
    request.update_mask.paths.append("labels.a")
    request.info.created_at.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    copy = content_pb2.UpdateRequest.FromString(request.SerializeToString())
    assert list(copy.update_mask.paths) == ["labels.a"]
    assert copy.info.created_at.ToDatetime(tzinfo=UTC) == datetime(2026, 1, 2, tzinfo=UTC)


def test_nothing_is_registered_in_the_default_pool() -> None:
    run_python(
        IMPORT_ALL.format(modules=MODULES)
        + """
from google.protobuf import descriptor_pool
from pyctrd.protos.types import descriptor_pb2
for find, name in (
    (descriptor_pool.Default().FindMessageTypeByName, "containerd.types.Descriptor"),
    (descriptor_pool.Default().FindMessageTypeByName, "google.rpc.Status"),
    (descriptor_pool.Default().FindFileByName, descriptor_pb2.DESCRIPTOR.name),
):
    try:
        find(name)
    except KeyError:
        continue
    raise AssertionError(f"{name} is in the default pool")
"""
    )


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("file_name", ["pyctrd/protos/types/descriptor.proto", "elsewhere/descriptor.proto"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_another_package_can_register_the_same_names(implementation: str, file_name: str, first: str) -> None:
    ours, theirs = IMPORT_ALL.format(modules=MODULES), FOREIGN_REGISTRATION.format(name=file_name)
    run_python((ours + theirs if first == "ours" else theirs + ours) + ROUND_TRIP, implementation)


def test_the_minimum_protobuf_is_that_of_the_generator() -> None:
    versions = set(re.findall(r"^# Protobuf Python Version: (.+)$", read_stubs("*_pb2.py"), re.MULTILINE))
    assert versions == {floor("protobuf")}


def test_the_minimum_grpcio_is_that_of_the_generator() -> None:
    versions = set(
        re.findall(r"^GRPC_GENERATED_VERSION = '(.+)'$", read_stubs("*_pb2_grpc.py"), re.MULTILINE)
    )
    assert versions == {floor("grpcio")}


def test_vendored_protos_match_their_upstream_checksums() -> None:
    protos = ROOT / "protos"
    lines = (protos / "UPSTREAM").read_text().partition("sha256:\n")[2].splitlines()
    listed = {name: digest for digest, name in map(str.split, lines)}
    present = {
        str(path.relative_to(protos)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in protos.rglob("*.proto")
    }
    assert present == listed
