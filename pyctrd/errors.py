"""The exceptions that pyctrd raises, and their exit codes.

    PyctrdError                      1
    +-- InvalidInput (ValueError)    2   an argument is malformed
    |   +-- InvalidReference
    |   +-- InvalidPlatform
    +-- NotFound                     3   an image, content, snapshot, lease ... does not exist
    |   +-- ImageNotFound
    |   +-- NoMatchingPlatform
    +-- AmbiguousReference           1
    +-- ImageInUse                   1   an image that is to be removed is in use or pinned
    +-- IncompleteContent            4   some of an image's content is missing (in pyctrd.oci.errors)
    +-- ContentError                 1   content does not match its digest or media type
    |   +-- DigestMismatch
    +-- RegistryError                5   the registry, or the connection to it, failed
    |   +-- RegistryNotFound (NotFound)  3
    |   +-- RegistryUnreachable
    |   +-- AuthenticationFailed
    |   +-- RegistryContentError         it sent content that does not match its descriptor
    +-- DaemonError                  1   containerd answered with an error
    |   +-- AlreadyExists
    |   +-- FailedPrecondition
    |   +-- IngestLocked
    |   +-- LeaseLost                    the lease that protected the content was deleted or expired
    |   +-- Unsupported
    +-- InUse                        1   something still refers to, or uses, what was to be removed
    +-- DaemonUnreachable            6   no containerd answers at the address
    +-- ArchiveError                 1   the archive could not be written, or is damaged
    +-- ClientClosed                 1   the client was closed, before or during the call
    +-- Cancelled                  130   the caller cancelled the operation

The exit code is an attribute of the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A call that solves the problem: a method of `client.images`, and its arguments.

    `method` "images" means `client.images.list`; one with a dot is a method of another part of the client. An
    empty `method` means the failed call itself, repeated with these arguments in addition. The call needs a
    client for `namespace`, if one is given.
    """

    method: Literal[
        "",
        "images",
        "pull",
        "ensure",
        "save",
        "verify",
        "remove",
        "tag",
        "pin",
        "unpin",
        "content.list",
        "content.save",
        "content.ingests",
        "leases.list",
        "namespaces.list",
        "snapshots.list",
    ] = ""
    images: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    all_platforms: bool = False
    repair: bool = False
    force: bool = False
    namespace: str = ""


# Names that come from a registry, an image or another client may be megabytes long.
MAX_TEXT: Final = 4000


def shortened(text: str) -> str:
    """Cut the middle out of a long text: either end may say what is wrong."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2 - 50
    return f"{text[:half]} ... ({len(text) - 2 * half} characters left out) ... {text[-half:]}"


class PyctrdError(Exception):
    """The base class of all errors that pyctrd raises.

    `message` is one line, with containerd's own wording where it has one. `hint` says in a sentence what to
    do next, or is None, and `remedy` is the call that does it, if there is one. Secrets are removed from both
    texts, and neither is longer than 4000 characters. `side` says where the problem is: "registry", "daemon"
    (containerd) or "local", which includes the caller's arguments. `exit_code` is the exit code of the
    command line for this error. Errors can be pickled.
    """

    exit_code: ClassVar[int] = 1
    side: ClassVar[Literal["local", "daemon", "registry"]] = "local"

    def __init__(self, message: str, *, hint: str | None = None, remedy: Remedy | None = None) -> None:
        from pyctrd import redact  # imported here because it would slow down every start

        self.message = shortened(redact.strike(message))
        self.hint = shortened(redact.strike(hint)) if hint else hint
        self.remedy = remedy
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes: the subclasses' constructors take different arguments."""
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[PyctrdError], args: tuple[object, ...]) -> PyctrdError:
    error = kind.__new__(kind)
    error.args = args
    return error


class InvalidInput(PyctrdError, ValueError):
    """An argument is malformed; nothing was done."""

    exit_code = 2


class InvalidReference(InvalidInput):
    """An image reference, digest or id that does not parse."""


class InvalidPlatform(InvalidInput):
    """A platform string that does not parse."""


class NotFound(PyctrdError):
    """An object does not exist: containerd's NOT_FOUND, or a reference that the registry does not know.

    `kind` is the kind of object (image, content, snapshot, lease), `name` its name.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, kind: str, name: str, hint: str | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init__(message, hint=hint, remedy=remedy)
        self.kind = kind
        self.name = name


class ImageNotFound(NotFound):
    """containerd has no image with this name."""


class NoMatchingPlatform(NotFound):
    """The image does not have the requested platform."""

    def __init__(
        self, message: str, *, name: str, hint: str | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init__(message, kind="platform", name=name, hint=hint, remedy=remedy)


class AmbiguousReference(PyctrdError):
    """A digest prefix matches more than one image; `candidates` are their names."""

    def __init__(self, message: str, *, candidates: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.candidates = tuple(candidates)


class ContentError(PyctrdError):
    """Content does not match its descriptor: not JSON, another media type, too large, nested too deeply."""


# For damaged content. The remedy names no images: code that knows them adds them.
REPAIR_HINT: Final = "find damaged content and replace it"
REPAIR: Final = Remedy(method="verify", repair=True)


class DigestMismatch(ContentError):
    """Content whose bytes do not match its digest."""

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
    """The registry refused the request, failed, or sent an unusable response.

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
    """The registry does not know this repository, tag or manifest."""

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
    """No HTTP response: name resolution, connection or TLS failed, or the request timed out."""


class AuthenticationFailed(RegistryError):
    """The registry or its token server rejected the credentials, or requires some."""


class RegistryContentError(RegistryError):
    """The registry sent content whose digest, size or media type does not match its descriptor."""


class DaemonError(PyctrdError):
    """containerd returned an error that has no class of its own; `code` is the name of the gRPC code.

    `kind` and `name` identify the object of the call, as in NotFound.
    """

    side = "daemon"

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        kind: str = "",
        name: str = "",
        hint: str | None = None,
        remedy: Remedy | None = None,
    ) -> None:
        super().__init__(message, hint=hint, remedy=remedy)
        self.code = code
        self.kind = kind
        self.name = name


class AlreadyExists(DaemonError):
    """The object already exists. For content, this means success."""


class FailedPrecondition(DaemonError):
    """containerd refused because of the object's state, e.g. a commit with the wrong digest or size."""


class IngestLocked(DaemonError):
    """Another client is writing the same ingest."""


class LeaseLost(DaemonError):
    """The lease of an operation was deleted by another client, or expired, before the operation was done.

    The garbage collector may have removed the content it protected. `name` is the lease's id.
    """


class Unsupported(DaemonError):
    """This containerd does not have the requested service or snapshotter."""


class InUse(PyctrdError):
    """Something still refers to an object that was to be removed, or a client uses it; nothing was done.

    `kind` and `name` identify the object, `users` what refers to it.
    """

    side = "daemon"

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        name: str,
        users: Sequence[str] = (),
        hint: str | None = None,
        remedy: Remedy | None = None,
    ) -> None:
        super().__init__(message, hint=hint, remedy=remedy)
        self.kind = kind
        self.name = name
        self.users = tuple(users)


class ImageInUse(InUse):
    """Images that are to be removed are in use by containers, or pinned; nothing was removed.

    `images` are the names of these images.
    """

    def __init__(
        self, message: str, *, images: Sequence[str], hint: str | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init__(message, kind="image", name=images[0] if images else "", hint=hint, remedy=remedy)
        self.images = tuple(images)


class DaemonUnreachable(PyctrdError):
    """No containerd answers at the address: no socket, no permission, no server, or another server."""

    exit_code = 6
    side = "daemon"


class ArchiveError(PyctrdError):
    """The archive could not be written or read, or is damaged; nothing partial is left behind."""


class ClientClosed(PyctrdError):
    """The client was closed, before the call or by another thread during it."""


class Cancelled(PyctrdError):
    """The caller cancelled the operation. What a pull has fetched is kept for the next one."""

    exit_code = 130


def is_interrupt(error: BaseException) -> bool:
    """Whether an error was raised to end the work early, and not because it failed."""
    return isinstance(error, Cancelled | ClientClosed) or not isinstance(error, Exception)


def require_utf8(text: str, what: str) -> None:
    """Raise InvalidInput unless a text can be encoded in UTF-8: command line arguments may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} {text!r}: not valid UTF-8") from None
