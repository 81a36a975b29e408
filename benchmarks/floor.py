"""The calls that a command cannot do without, and nothing else: no client in Python with grpc is faster.

    python -m benchmarks.floor read ADDRESS NAMESPACE            read all blobs of a namespace, in small calls
    python -m benchmarks.floor write ADDRESS NAMESPACE FILE...   store files as blobs, three at a time

`read` is what a save of many images does, without an archive; `write` what a pull does, without a registry,
labels and unpacking. Both use the settings of the command line.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pyctrd.cli import process

MESSAGE_BYTES = 1 << 20
_AT_ONCE = 64
Metadata: TypeAlias = tuple[tuple[str, str], ...]
_CONTENT = "/containerd.services.content.v1.Content/"


def main(verb: str, address: str, namespace: str, *files: str) -> None:
    """Make the calls of a verb."""
    process.tune()
    process.tune_grpc()
    import grpc

    with grpc.insecure_channel(f"unix:{address}") as channel:
        metadata = (("containerd-namespace", namespace),)
        if verb == "read":
            _read(channel, metadata)
        else:
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(partial(_write, channel, metadata), files))


def _read(channel: Any, metadata: Metadata) -> None:
    from pyctrd.protos.services.content.v1 import content_pb2 as pb

    listing = channel.unary_stream(
        f"{_CONTENT}List",
        request_serializer=pb.ListContentRequest.SerializeToString,
        response_deserializer=pb.ListContentResponse.FromString,
    )
    reading = channel.unary_unary(
        f"{_CONTENT}Read",
        request_serializer=pb.ReadContentRequest.SerializeToString,
        response_deserializer=None,
    )
    waiting = deque[Any]()
    for answer in listing(pb.ListContentRequest(), metadata=metadata):
        for info in answer.info:
            waiting.append(reading.future(pb.ReadContentRequest(digest=info.digest), metadata=metadata))
            if len(waiting) == _AT_ONCE:
                waiting.popleft().result()
    for call in waiting:
        call.result()


def _write(channel: Any, metadata: Metadata, file: str) -> None:
    from pyctrd.protos.services.content.v1 import content_pb2 as pb

    def requests(file: Path) -> Iterator[bytes]:
        digest, size, sent = f"sha256:{file.name}", file.stat().st_size, 0
        request = partial(pb.WriteContentRequest, ref=f"floor-{file.name}", total=size)
        with file.open("rb") as blob:
            while data := blob.read(MESSAGE_BYTES):
                yield request(action=pb.WRITE, offset=sent, data=data).SerializeToString()
                sent += len(data)
        yield request(action=pb.COMMIT, offset=sent, expected=digest).SerializeToString()

    writing = channel.stream_stream(
        f"{_CONTENT}Write",
        request_serializer=None,
        response_deserializer=pb.WriteContentResponse.FromString,
    )
    for _ in writing(requests(Path(file)), metadata=metadata):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
