"""The platform of this machine, in Go's terms: os, architecture, variant.

Source: github.com/containerd/platforms v1.0.0-rc.5 (defaults_unix.go, cpuinfo.go, cpuinfo_linux.go,
cpuinfo_other.go, platform_windows_compat.go).
"""

from __future__ import annotations

import platform
import re
import sys
from typing import Final

_MACHINES: Final = {
    "x86_64": "amd64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "x86": "386",
    "aarch64": "arm64",
    "loongarch64": "loong64",
}
_NARROW: Final = {"amd64": "386", "arm64": "arm"}
_ARM_CORES: Final = {
    **dict.fromkeys(("8", "aarch64"), "v8"),
    **dict.fromkeys(("7", "7m", "?(12)", "?(13)", "?(14)", "?(15)", "?(16)", "?(17)"), "v7"),
    **dict.fromkeys(("6", "6tej"), "v6"),
    **dict.fromkeys(("5", "5t", "5te", "5tej"), "v5"),
    **dict.fromkeys(("4", "4t"), "v4"),
    "3": "v3",
}


def current() -> tuple[str, str, str]:
    """Return the os, architecture and variant of this machine."""
    machine = platform.machine()
    cpuinfo = _cpuinfo() if machine.lower().startswith(("arm", "aarch64")) else None
    return detect(platform.system(), machine, cpuinfo, wide=sys.maxsize > 2**32)


def _cpuinfo() -> str | None:
    from pathlib import Path

    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def detect(system: str, machine: str, cpuinfo: str | None, *, wide: bool = True) -> tuple[str, str, str]:
    """Return os, architecture and variant for uname's values and the text of /proc/cpuinfo.

    `cpuinfo` is None if it cannot be read. `wide` says whether this is a 64-bit process: a 32-bit system may
    run on a 64-bit kernel, and uname then names the kernel's machine. Only ARM has variants; `unknown` means
    an unknown core, and an empty variant that it could not be determined.
    """
    os, name = system.lower(), machine.lower()
    architecture = "arm" if name.startswith("armv") else _MACHINES.get(name, name)
    if not wide:
        architecture = _NARROW.get(architecture, architecture)
    if architecture not in ("arm", "arm64"):
        return os, architecture, ""
    if os != "linux":
        return os, architecture, "v8" if architecture == "arm64" else "v7"
    return os, architecture, "" if cpuinfo is None else _arm_variant(name, cpuinfo, architecture)


def _arm_variant(machine: str, cpuinfo: str, architecture: str) -> str:
    core = _cpu_field(cpuinfo, "cpu architecture")
    if core is None:  # emulated: the kernel shows the host's processors
        core = "8" if machine == "aarch64" else machine[4:5] if machine.startswith("armv") else ""
        if not core:
            return ""
    model = _cpu_field(cpuinfo, "model name") or ""
    if architecture == "arm" and core == "7" and model.lower().startswith("armv6-compatible"):
        core = "6"  # the kernel of the first Raspberry Pi reports 7
    return _ARM_CORES.get(core.lower(), "unknown")


def _cpu_field(cpuinfo: str, name: str) -> str | None:
    for line in cpuinfo.splitlines():
        key, *values = line.split(":")
        if values and key.strip().lower() == name:
            return values[0].strip()
    return None


# The builds of Windows Server 2022 and 2025.
_STABLE_BUILDS: Final = (20348, 26100)


def windows_runs(host_version: str, image_version: str) -> bool:
    """Whether a Windows host runs images of another version; True if a version is unknown.

    From Windows Server 2022 on, a host also runs images of the previous server release.
    """
    host_parts = _windows_version(host_version)
    if host_parts == (0, 0, 0) or not image_version:
        return True
    image_parts = _windows_version(image_version)
    if host_parts[:2] != image_parts[:2]:
        return False
    host_build, image_build = host_parts[2], image_parts[2]
    if host_build < _STABLE_BUILDS[0]:
        return host_build == image_build
    reached = [build for build in _STABLE_BUILDS if build <= host_build]
    return reached[max(len(reached) - 2, 0)] <= image_build <= host_build


def _windows_version(text: str) -> tuple[int, int, int]:
    parts = text.split(".")[:3]
    if len(parts) < 3 or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        return 0, 0, 0
    major, minor, build = (int(part) for part in parts)
    return (major, minor, build) if major < 256 and minor < 256 and build < 65536 else (0, 0, 0)
