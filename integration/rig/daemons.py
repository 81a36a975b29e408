"""The daemons of the rig in one place."""

from __future__ import annotations

from integration.rig.contained import ContainerdInDocker
from integration.rig.containerd import ISOLATED_CONTENT, Containerd, Ctr
from integration.rig.debian_image import container_image
from integration.rig.engine import Dockerd
from integration.rig.proxy import Fault, LoggingProxy, Request
from integration.rig.registry import HTPASSWD, PASSWORD, USER, Certificate, Registry
from integration.rig.sshd import OTHER_USER, Sshd
from integration.rig.tokens import TokenService

__all__ = [
    "HTPASSWD",
    "ISOLATED_CONTENT",
    "OTHER_USER",
    "PASSWORD",
    "USER",
    "Certificate",
    "Containerd",
    "ContainerdInDocker",
    "Ctr",
    "Dockerd",
    "Fault",
    "LoggingProxy",
    "Registry",
    "Request",
    "Sshd",
    "TokenService",
    "container_image",
]
