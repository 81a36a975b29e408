"""A long line to a registry: a TCP proxy on 127.0.0.1 that delays what it forwards.

    python -m benchmarks.line PORT SECONDS

It prints its port, and runs until stdin is closed. Each direction is delayed by half of the round trip, and
a new connection by a whole one, for the handshake. The rate is not limited, and there is no slow start.
Network namespaces with netem would be more exact, but the kernels of many virtual machines have no netem.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

_CHUNK = 256 << 10
# What may be on its way in one direction: at 50 ms enough for more than a gigabit per second.
_CHUNKS = 64


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: float, delay: float
) -> None:
    """Forward one direction of a connection, which is open to its ends from `opened` on."""
    clock = asyncio.get_running_loop().time
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS)

    async def write() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - clock())
            if not data:
                return
            writer.write(data)
            await writer.drain()

    async def read() -> None:
        data = b"first"
        while data:
            data = await reader.read(_CHUNK)
            await waiting.put((max(clock(), opened) + delay, data))

    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            both.create_task(write())
    except* ConnectionError:
        pass  # one of the ends is gone
    with suppress(OSError, RuntimeError):
        writer.write_eof()


async def _connect(
    port: int, seconds: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    opened = asyncio.get_running_loop().time() + seconds
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * _CHUNK)
        await asyncio.gather(
            _forward(reader, far_writer, opened, seconds / 2),
            _forward(far_reader, writer, opened, seconds / 2),
        )
        far_writer.close()
    finally:
        writer.close()


async def _serve(port: int, seconds: float) -> None:
    connect = partial(_connect, port, seconds)
    server = await asyncio.start_server(connect, "127.0.0.1", 0, limit=4 * _CHUNK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def running(port: int, seconds: float) -> Iterator[int]:
    """Run the proxy in a process of its own; yields its port."""
    command = [sys.executable, "-m", "benchmarks.line", str(port), str(seconds)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
