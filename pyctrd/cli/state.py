"""The values of the options that several commands share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class RegistryArguments:
    """The registry options."""

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
    """Whether the command has these options."""


@dataclass
class Settings:
    """The options of one run; None means the environment variable or the default."""

    address: str | None = None
    namespace: str | None = None
    debug: bool = False
    images: tuple[str, ...] = ()
    """The images of this namespace that were given as arguments."""
    output: str = ""
    interrupted: str = ""
    """The hint to print after Ctrl-C."""
    registry: RegistryArguments = field(default_factory=RegistryArguments)
    cancel: threading.Event = field(default_factory=threading.Event)
    """Set by a signal to end the work in progress."""
