"""containerd's introspection service: its identity, its plugins, and why some did not start.

Source: containerd api/services/introspection/v1/introspection.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf import empty_pb2

from pyctrd.containerd.channel import Connection
from pyctrd.errors import Unsupported
from pyctrd.oci.model import Platform
from pyctrd.oci.resources import Plugin
from pyctrd.protos.services.introspection.v1 import introspection_pb2, introspection_pb2_grpc
from pyctrd.protos.types import platform_pb2

DIFF_PLUGIN = "io.containerd.differ.v1"
SNAPSHOTTER_PLUGIN = "io.containerd.snapshotter.v1"
TRANSFER_PLUGIN = "io.containerd.transfer.v1"
METADATA_PLUGIN = "io.containerd.metadata.v1"


class IntrospectionService:
    """The introspection service of one containerd."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = introspection_pb2_grpc.IntrospectionStub(connection.channel)
        self._capabilities: dict[str, Sequence[str]] = {}

    def server_uuid(self) -> str:
        """Return the UUID that containerd stores in its root directory."""
        with self._connection.calling("server", self._connection.place.name):
            return self._stub.Server(empty_pb2.Empty()).uuid

    def plugins(self, filters: Sequence[str] = ()) -> Sequence[Plugin]:
        """Return the plugins that match any of the filters, e.g. `type==io.containerd.snapshotter.v1`."""
        with self._connection.calling("plugins", "list"):
            answer = self._stub.Plugins(introspection_pb2.PluginsRequest(filters=filters))
        return tuple(map(_to_plugin, answer.plugins))

    def has_transfer(self) -> bool:
        """Whether there is a transfer service, which containerd has since 1.7."""
        return any(not plugin.error for plugin in self.plugins([f"type=={TRANSFER_PLUGIN}"]))

    def snapshotters(self) -> Sequence[str]:
        """Return the names of the loaded snapshotters."""
        plugins = self.plugins([f"type=={SNAPSHOTTER_PLUGIN}"])
        return sorted(plugin.id for plugin in plugins if not plugin.error)

    def platform(self) -> Platform | None:
        """Return the platform of containerd's machine, as its diff service or a snapshotter reports it.

        Both are registered with platforms.DefaultSpec (containerd plugins/diff/walking/plugin/plugin.go).
        """
        plugins = self.plugins([f"type=={DIFF_PLUGIN}", f"type=={SNAPSHOTTER_PLUGIN}"])
        preferred = sorted(plugins, key=lambda plugin: (plugin.id != "walking", plugin.type != DIFF_PLUGIN))
        found = (plugin.platforms[0] for plugin in preferred if plugin.platforms and not plugin.error)
        return next(found, None)

    def shares_content(self) -> bool:
        """Whether a namespace can use the content of any other, which is containerd's default.

        Source: containerd plugins/metadata/plugin.go, content_sharing_policy.
        """
        plugins = self.plugins([f"type=={METADATA_PLUGIN}"])
        return not any(plugin.exports.get("policy") == "isolated" for plugin in plugins)

    def capabilities(self, snapshotter: str) -> Sequence[str]:
        """Return what a snapshotter can do; asks at most once. Raises Unsupported if it is not loaded."""
        if snapshotter not in self._capabilities:
            self.require_snapshotter(snapshotter)
        return self._capabilities[snapshotter]

    def require_snapshotter(self, name: str) -> None:
        """Raise Unsupported, with containerd's reason, unless this snapshotter is loaded."""
        plugins = self.plugins([f"type=={SNAPSHOTTER_PLUGIN}"])
        self._capabilities = {plugin.id: plugin.capabilities for plugin in plugins if not plugin.error}
        loaded = sorted(self._capabilities)
        if name in loaded:
            return
        reason = next((plugin.error for plugin in plugins if plugin.id == name), "there is no such plugin")
        raise Unsupported(
            f"snapshotter not loaded: {name}: {reason}",
            code=grpc.StatusCode.UNIMPLEMENTED.name,
            kind="snapshotter",
            name=name,
            hint=f"this containerd has loaded {', '.join(loaded) or 'none'}; choose one with `snapshotter`",
        )


def _to_platform(message: platform_pb2.Platform) -> Platform:
    return Platform(
        os=message.os,
        architecture=message.architecture,
        variant=message.variant,
        os_version=message.os_version,
    )


def _to_plugin(message: introspection_pb2.Plugin) -> Plugin:
    error = message.init_err
    return Plugin(
        type=message.type,
        id=message.id,
        capabilities=tuple(message.capabilities),
        platforms=tuple(map(_to_platform, message.platforms)),
        exports=dict(message.exports),
        error=(error.message or f"code {error.code}") if message.HasField("init_err") else "",
    )
