"""The proxy that makes a node far away: how far, and that it loses nothing."""

import asyncio
import time

from homeport.lab.delay import serve


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\n")
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
    writer.close()


async def _measure(rtt: float, size: int) -> tuple[float, float, int]:
    """Seconds until the greeting, then until `size` bytes are back, and how many came."""
    behind = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = await serve("127.0.0.1", behind.sockets[0].getsockname()[1], rtt)
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(*proxy.sockets[0].getsockname())
    await reader.readline()
    greeted = time.monotonic()
    writer.write(b"x" * size)
    writer.write_eof()
    count = len(await reader.read(-1))
    ended = time.monotonic()
    proxy.close()
    behind.close()
    return greeted - began, ended - greeted, count


def test_everything_arrives_later_by_the_round_trip() -> None:
    greeting, back, count = asyncio.run(_measure(0.1, 500_000))
    assert 0.2 <= greeting < 0.5
    assert 0.1 <= back < 0.5
    assert count == 500_000


def test_without_a_delay_it_only_carries() -> None:
    greeting, back, count = asyncio.run(_measure(0.0, 1000))
    assert greeting < 0.1
    assert back < 0.1
    assert count == 1000
