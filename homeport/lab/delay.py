"""A TCP proxy that makes a node as far away as asked, for measuring.

    python -m homeport.lab.delay HOST PORT RTT_MS      prints the port that it listens on

Every byte arrives half a round trip after it was sent, in each direction. A connection's own
handshake counts too: over a real path the first bytes of the server come two round trips after
the client began, and so they do here. Loss and slow start are not part of it.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

# What may be under way in one direction, in chunks of `CHUNK` bytes.
DEPTH = 1024
CHUNK = 1 << 16


def _nodelay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, begun: float
) -> None:
    """Pass on what comes, each chunk `delay` seconds after it came; none came before `begun`."""
    loop = asyncio.get_running_loop()
    way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(DEPTH)

    async def read() -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = await reader.read(CHUNK)
            except OSError:
                chunk = b""
            await way.put((max(loop.time(), begun) + delay, chunk))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, chunk = await way.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                writer.write_eof()  # the other direction goes on
                return
            writer.write(chunk)
            await writer.drain()
    except OSError:
        writer.transport.abort()  # broken on one side: broken on the other
    finally:
        reading.cancel()


async def serve(host: str, port: int, rtt: float) -> asyncio.Server:
    """A proxy on a free port of 127.0.0.1 that leads to `host`, `rtt` seconds there and back."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = asyncio.get_running_loop().time() + rtt  # then a client knows that it is connected
        await asyncio.sleep(1.5 * rtt)
        try:
            back_reader, back_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        _nodelay(writer)
        _nodelay(back_writer)
        await asyncio.gather(
            _carry(reader, back_writer, rtt / 2, begun),
            _carry(back_reader, writer, rtt / 2, begun),
        )
        writer.close()
        back_writer.close()

    return await asyncio.start_server(connect, "127.0.0.1", 0)


@contextlib.contextmanager
def delayed(host: str, port: int, rtt_ms: float) -> Iterator[int]:
    """The port of a proxy to `host`, in a process of its own, for the length of the block."""
    words = [sys.executable, "-m", "homeport.lab.delay", host, str(port), str(rtt_ms)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def _main(host: str, port: int, rtt_ms: float) -> None:
    server = await serve(host, port, rtt_ms / 1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
