"""Every exception that pyctrd raises, and the exit code that each becomes.

    PyctrdError                      1
    +-- InvalidInput (ValueError)    2   what the caller gave us is malformed
    |   +-- InvalidReference
    |   +-- InvalidPlatform
    +-- NotFound                     3   image, content, snapshot, lease ... that is not there
    |   +-- ImageNotFound
    |   +-- NoMatchingPlatform
    +-- AmbiguousReference           1
    +-- IncompleteContent            4   the image is here, some of its content is not (in pyctrd.oci.errors)
    +-- ContentError                 1   local content is not what its digest or media type says
    |   +-- DigestMismatch
    +-- RegistryError                5   the registry, or the way to it
    |   +-- RegistryNotFound (NotFound)  3
    |   +-- RegistryUnreachable
    |   +-- AuthenticationFailed
    |   +-- RegistryContentError         it sent something else than what it promised
    +-- DaemonError                  1   containerd answered with an error
    |   +-- AlreadyExists
    |   +-- FailedPrecondition
    |   +-- IngestLocked
    |   +-- LeaseLost                    what kept the content while we worked was deleted, or expired
    |   +-- Unsupported
    +-- DaemonUnreachable            6   there is nobody to talk to
    +-- ArchiveError                 1   the archive could not be written
    +-- ClientClosed                 1   the client was closed, before the call or in the middle of it
    +-- Cancelled                  130   the caller ended the work

The exit code is an attribute of the class, so the mapping has one place and cannot drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What helps: a method of the client, and what to call it with.

    An empty `method` is the same call again, with these arguments besides, or with a client of another
    `namespace`.
    """

    method: Literal["", "images", "pull", "ensure", "save", "verify"] = ""
    images: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    all_platforms: bool = False
    repair: bool = False
    namespace: str = ""


# What a registry, an image or another client has named may be megabytes long.
MAX_TEXT: Final = 4000


def shortened(text: str) -> str:
    """Cut a long text in its middle: what is wrong stands at its end as often as at its beginning."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2 - 50
    return f"{text[:half]} ... ({len(text) - 2 * half} characters left out) ... {text[-half:]}"


class PyctrdError(Exception):
    """The root of all errors of this package.

    `message` is one line that keeps containerd's own phrase where it has one; `hint` is the next thing to
    do, in a sentence, or None. Neither holds a secret that a registry has echoed. `remedy` is the call that
    does it, where there is one. Neither text is longer than MAX_TEXT characters. `side` is where the problem
    is: the registry, the daemon (containerd), or local, which includes the caller's input. Errors pickle.
    """

    exit_code: ClassVar[int] = 1
    side: ClassVar[Literal["local", "daemon", "registry"]] = "local"

    def __init__(self, message: str, *, hint: str | None = None, remedy: Remedy | None = None) -> None:
        from pyctrd import redact  # an error is rare, and what this imports costs a start

        self.message = shortened(redact.strike(message))
        self.hint = shortened(redact.strike(hint)) if hint else hint
        self.remedy = remedy
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all attributes: the constructors of the subclasses take other arguments."""
        return _remade, (type(self), self.args), self.__dict__


def _remade(kind: type[PyctrdError], args: tuple[object, ...]) -> PyctrdError:
    error = kind.__new__(kind)
    error.args = args
    return error


class InvalidInput(PyctrdError, ValueError):
    """Something that the caller gave is malformed: nothing was tried with it."""

    exit_code = 2


class InvalidReference(InvalidInput):
    """An image reference, digest or id that does not parse."""


class InvalidPlatform(InvalidInput):
    """A platform string that does not parse."""


class NotFound(PyctrdError):
    """An object that is not there: containerd's NOT_FOUND, or a reference that the registry does not know.

    `kind` is the object's kind in the field's words (image, content, snapshot, lease), `name` its name.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, kind: str, name: str, hint: str | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init__(message, hint=hint, remedy=remedy)
        self.kind = kind
        self.name = name


class ImageNotFound(NotFound):
    """An image that containerd does not have under the name that was asked for."""


class NoMatchingPlatform(NotFound):
    """An image that exists, without the platform that was asked for."""

    def __init__(
        self, message: str, *, name: str, hint: str | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init__(message, kind="platform", name=name, hint=hint, remedy=remedy)


class AmbiguousReference(PyctrdError):
    """A digest prefix that more than one image has; `candidates` are their names."""

    def __init__(self, message: str, *, candidates: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.candidates = tuple(candidates)


class ContentError(PyctrdError):
    """Content that is not what its descriptor says: not JSON, another media type, too large, too deep."""


# For content that the disk has changed: the same words wherever it is found out. Whoever knows the images
# that are read names them.
REPAIR_HINT: Final = "find such content and fetch good copies"
REPAIR: Final = Remedy(method="verify", repair=True)


class DigestMismatch(ContentError):
    """Content whose bytes do not have the digest that names them."""

    def __init__(
        self,
        message: str,
        *,
        expected: str,
        actual: str,
        hint: str | None = None,
        remedy: Remedy | None = None,
    ) -> None:
        super().__init__(message, hint=hint, remedy=remedy)
        self.expected = expected
        self.actual = actual


class RegistryError(PyctrdError):
    """The registry refused, failed, or answered with something that cannot be used.

    `host` is host[:port], `repository` the repository's path, `status` the HTTP status or None.
    """

    exit_code = 5
    side = "registry"

    def __init__(
        self,
        message: str,
        *,
        host: str = "",
        repository: str = "",
        status: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.host = host
        self.repository = repository
        self.status = status


class RegistryNotFound(NotFound, RegistryError):
    """A repository, a tag or a manifest that the registry does not know."""

    exit_code = NotFound.exit_code

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        name: str,
        host: str = "",
        repository: str = "",
        status: int | None = 404,
        hint: str | None = None,
    ) -> None:
        PyctrdError.__init__(self, message, hint=hint)
        self.kind = kind
        self.name = name
        self.host = host
        self.repository = repository
        self.status = status


class RegistryUnreachable(RegistryError):
    """No HTTP answer: name resolution, connection, TLS, or a time-out."""


class AuthenticationFailed(RegistryError):
    """The registry or its token server did not accept what we have (or have not)."""


class RegistryContentError(RegistryError):
    """The registry sent bytes of another digest, size or media type than it had promised."""


class DaemonError(PyctrdError):
    """containerd answered with an error that has no class of its own; `code` is the gRPC code's name.

    `kind` and `name` are the object that the call was about, as in NotFound.
    """

    side = "daemon"

    def __init__(
        self, message: str, *, code: str = "UNKNOWN", kind: str = "", name: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.kind = kind
        self.name = name


class AlreadyExists(DaemonError):
    """The object is there already. For content this is success under another name."""


class FailedPrecondition(DaemonError):
    """containerd refused because of the object's state, e.g. a commit whose digest or size is wrong."""


class IngestLocked(DaemonError):
    """Another client is writing the same ingest at this moment."""


class LeaseLost(DaemonError):
    """The lease under which a command worked was deleted by another client, or expired, before it was done.

    The garbage collector may have taken what it held. `name` is the lease's id.
    """


class Unsupported(DaemonError):
    """This containerd does not have the service or the snapshotter that was asked for."""


class DaemonUnreachable(PyctrdError):
    """No containerd behind the address: no socket, no permission, nobody serving, or somebody else."""

    exit_code = 6
    side = "daemon"


class ArchiveError(PyctrdError):
    """The archive could not be written; nothing is left of it."""


class ClientClosed(PyctrdError):
    """A call on a client that is closed, or that another thread closed in the middle of the call."""


class Cancelled(PyctrdError):
    """The caller ended the work before it was done. What a pull has fetched is kept for the next one."""

    exit_code = 130


def require_utf8(text: str, what: str) -> None:
    """Raise InvalidInput for a text that no protobuf string or URL can carry: not every argument is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} {text!r}: not valid UTF-8") from None
