"""A TCP relay to a node whose connections can be cut.

    python -m tests.soak.relay HOST PORT      prints the port of 127.0.0.1 that it listens on

SIGUSR1 ends every connection with a reset towards both ends, as a router does that has forgotten
it, and takes no new ones.
"""

import asyncio
import contextlib
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

CHUNK = 1 << 16
# Closed at once, what is unsent forgotten: then the other end gets a reset.
AT_ONCE = struct.pack("ii", 1, 0)


class Relay:
    """The relay to `host`, `port`: `serve`, then `cut`."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.ends: list[asyncio.StreamWriter] = []
        self.server: asyncio.Server | None = None

    async def serve(self) -> int:
        """Listen on a free port of 127.0.0.1, and say which."""
        self.server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def _connect(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far, far_out = await asyncio.open_connection(self.host, self.port)
        for end in (near_out, far_out):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ends += [near_out, far_out]
        await asyncio.gather(self._carry(near, far_out), self._carry(far, near_out))
        near_out.close()
        far_out.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(CHUNK):
                sink.write(chunk)
                await sink.drain()
            sink.write_eof()

    def cut(self) -> None:
        """Reset every connection, and take no new one."""
        if self.server is not None:
            self.server.close()
        for end in self.ends:
            if not end.is_closing():
                end.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE
                )
                end.transport.abort()


@contextlib.contextmanager
def relay(host: str, port: int) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """(port, process) of a relay to `host`, `port`, for the length of the block."""
    words = [sys.executable, "-m", "tests.soak.relay", host, str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.terminate()


async def _main(host: str, port: int) -> None:
    made = Relay(host, port)
    print(await made.serve(), flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, made.cut)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
