"""Write a bug report: an archive with facts about a containerd and its machine, and without secrets."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pyctrd import redact
from pyctrd.archive.location import failure, found_at
from pyctrd.archive.partial import replacing
from pyctrd.errors import ArchiveError, DaemonUnreachable, InvalidInput, PyctrdError, is_interrupt
from pyctrd.operations.doctor.host import ReportedHost
from pyctrd.operations.doctor.model import BugReport, BugReportFile, DoctorReport
from pyctrd.ports import Containerd

_FOLDER: Final = "pyctrd-bug-report"
_MODE: Final = 0o600
# The texts in containerd's configuration that are kept: plugins may have secrets under any other name.
_KEPT: Final = frozenset(
    {
        *("version", "root", "state", "address", "config_path", "snapshotter", "default_runtime_name"),
        *("runtime_type", "runtime_path", "sandbox", "sandbox_image", "sandboxer", "level", "format"),
        *("bin_dir", "bin_dirs", "conf_dir", "endpoint", "differ", "platform", "disabled_plugins"),
        *("required_plugins", "imports", "root_path", "content_sharing_policy"),
    }
)
_SECRET_KEY: Final = re.compile(r"pass|secret|token|auth|key|cred", re.IGNORECASE)
_USER_IN_URL: Final = re.compile(r"(?<=://)[^/\s\"']*@")
_QUERY_OF_URL: Final = re.compile(r"(://[^\s\"'?#]*)\?[^\s\"']*")

_README: Final = """\
A bug report of pyctrd. Passwords, tokens and secret headers are left out or replaced by ***.
It has names of images, registries, paths and namespaces: read it before you send it.

"""


def write(
    output: str,
    containerd: Containerd | None,
    host: ReportedHost,
    report: DoctorReport,
    *,
    now: dt.datetime,
    unreachable: DaemonUnreachable | None,
    force: bool,
) -> BugReport:
    """Write a bug report to a file with mode 0600, which appears when it is complete.

    `containerd` is None if it does not answer; `unreachable` says why. What cannot be found out is an error
    in the report. Raises InvalidInput if the output is no regular file, ArchiveError if it exists, unless
    `force` is set, or cannot be written.
    """
    contents: dict[str, tuple[str, Callable[[], object]]] = {
        "versions.json": ("versions of pyctrd, Python and libraries", host.versions),
        "platform.json": ("operating system, kernel, CPUs and memory", host.platform),
        "environment.json": ("variables that change what pyctrd does", host.environment),
        "doctor.json": ("what doctor has found", lambda: report),
        "containerd.json": (
            "containerd's socket, version, plugins and namespaces",
            lambda: _containerd(containerd, host, unreachable),
        ),
        "config.json": ("containerd's configuration; most texts are replaced", lambda: _config(host)),
        "registries.json": ("hosts.toml files, and for which registries there are logins", host.registries),
    }
    # All of it is found out before the first text is written: then every secret that was met is known.
    found = {name: _found(find) for name, (_, find) in contents.items()}
    files = {name: _text(value) for name, value in found.items()}
    about = {name: text for name, (text, _) in contents.items()}
    listing = "".join(f"{name:18} {text}\n" for name, text in about.items())
    files = {"README.txt": f"{_README}{listing}".encode(), **files}
    about["README.txt"] = "what the other files are"
    _write(output, _archive(files, now), force=force)
    return BugReport(
        path=output,
        files=tuple(
            BugReportFile(name=f"{_FOLDER}/{name}", size=len(data), about=about[name])
            for name, data in files.items()
        ),
        doctor=report,
    )


def _found(find: Callable[[], object]) -> object:
    try:
        return msgspec.to_builtins(find())
    except Exception as error:
        if is_interrupt(error):
            raise
        return {
            "error": error.message if isinstance(error, PyctrdError) else f"{type(error).__name__}: {error}"
        }


def _containerd(
    containerd: Containerd | None, host: ReportedHost, unreachable: DaemonUnreachable | None
) -> dict[str, object]:
    found: dict[str, object] = {"socket": _found(host.socket), "process": _found(lambda: _process(host))}
    if containerd is None:
        return {
            **found,
            "unreachable": unreachable and {"message": unreachable.message, "hint": unreachable.hint},
        }
    return {
        **found,
        "version": _found(containerd.version),
        "plugins": _found(
            lambda: [
                {"type": item.type, "id": item.id, "status": item.status, "error": item.error}
                for item in containerd.introspection.plugins()
            ]
        ),
        "namespaces": _found(lambda: sorted(item.name for item in containerd.namespaces.list())),
    }


def _process(host: ReportedHost) -> dict[str, object] | None:
    found = host.process()
    if found is None:
        return None
    return {"pid": found.pid, "path": found.path, "variables": sorted(found.environment)}


def _config(host: ReportedHost) -> dict[str, object]:
    file = host.config()
    return {"file": file.path, "settings": _without_texts(file.settings)}


def _without_texts(value: Any, key: str = "") -> Any:
    """Replace the values in a configuration that may be secret."""
    if isinstance(value, Mapping):
        return {str(name): _without_texts(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_texts(item, key) for item in value]
    if isinstance(value, str):
        return value if key in _KEPT or not value else redact.STRUCK
    if _SECRET_KEY.search(key) and not isinstance(value, bool):
        return redact.STRUCK
    return value


def _text(value: object) -> bytes:
    text = json.dumps(_without_secrets(value), indent=2, ensure_ascii=False, default=str)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def _without_secrets(value: Any) -> Any:
    """Remove known secrets, users and queries of URLs, from each text of a document."""
    if isinstance(value, Mapping):
        return {_without_secrets(str(key)): _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    if isinstance(value, str):
        text = _USER_IN_URL.sub(f"{redact.STRUCK}@", redact.strike(value))
        return _QUERY_OF_URL.sub(rf"\1?{redact.STRUCK}", text)
    return value


def _archive(files: Mapping[str, bytes], now: dt.datetime) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{_FOLDER}/{name}")
            member.size, member.mode, member.mtime = len(data), _MODE, int(now.timestamp())
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _write(output: str, data: bytes, *, force: bool) -> None:
    with found_at(output) as location:
        if location.kind not in (0, stat.S_IFREG):
            raise InvalidInput(f"{output}: is not a regular file")
        if location.found is not None and not force:
            raise ArchiveError(f"{output} exists", hint="choose another name, or `force` to replace it")
        with replacing(location, _create, _MODE) as number:
            os.fchmod(number, _MODE)  # also if the file that it replaces had other rights
            try:
                with os.fdopen(number, "wb", closefd=False) as stream:
                    stream.write(data)
            except OSError as error:
                raise failure(output, error) from error


def _create(name: str, mode: int, directory: int) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=directory)
