"""What this command line says: the values of the options that several commands share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class RegistryArguments:
    """How to talk to registries, as far as the command line says."""

    plain_http: bool = False
    skip_verify: bool = False
    user: str | None = None
    password_stdin: bool = False
    hosts_dir: str | None = None
    parallel_ranges: int | Literal["auto", "off"] = "auto"
    connect_timeout: float | None = None
    stall_timeout: float | None = None
    retry_budget: float | None = None
    sudo_user_config: bool | None = None
    are_offered: bool = False
    """Whether the command has these options at all."""


@dataclass
class Settings:
    """What one run was told; None means that the environment or the default decides."""

    address: str | None = None
    namespace: str | None = None
    debug: bool = False
    images: tuple[str, ...] = ()
    """The images of this namespace that the command is about."""
    output: str = ""
    interrupted: str = ""
    """What to say after Ctrl-C."""
    registry: RegistryArguments = field(default_factory=RegistryArguments)
    cancel: threading.Event = field(default_factory=threading.Event)
    """Set by a signal: whatever is under way is to end."""
