"""A broker as an older one would answer: a proxy that changes what Kafka says of its own requests (ApiVersions).

Belongs here: that proxy. Kafka 4 itself cannot be told to forget a request.
"""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Coroutine, Iterator, Mapping

from tools.services import Instance
from tools.services.servers.base import HOST

API_VERSIONS = 18
METADATA, DESCRIBE_CONFIGS, INIT_PRODUCER_ID = 3, 32, 22


@contextlib.contextmanager
def older(kafka: Instance, most: Mapping[int, int]) -> Iterator[str]:
    """host:port of a broker that knows the request `key` only up to version `most[key]`; -1: not at all."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    ports = kafka.place.ports
    serve = asyncio.start_server(lambda r, w: _connection(r, w, ports["behind"], most), HOST, ports["proxied"])
    server = asyncio.run_coroutine_threadsafe(serve, loop).result(10)
    try:
        yield f"{HOST}:{ports['proxied']}"
    finally:
        server.close()
        asyncio.run_coroutine_threadsafe(_end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end() -> None:
    mine = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not mine]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, most: Mapping[int, int]
) -> None:
    theirs_reader, theirs_writer = await asyncio.open_connection(HOST, port)
    asked: set[int] = set()  # correlation ids of ApiVersions requests

    async def requests() -> None:
        while frame := await _frame(reader):
            key, _version, correlation = struct.unpack_from(">hhi", frame)
            if key == API_VERSIONS:
                asked.add(correlation)
            await _send(theirs_writer, frame)

    async def answers() -> None:
        while frame := await _frame(theirs_reader):
            (correlation,) = struct.unpack_from(">i", frame)
            await _send(writer, _changed(frame, most) if correlation in asked else frame)

    try:
        async with asyncio.TaskGroup() as both:
            for way in (requests(), answers()):
                both.create_task(_until_cut(way, writer, theirs_writer))
    finally:
        writer.close()
        theirs_writer.close()


async def _until_cut(way: Coroutine[None, None, None], *writers: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await way
    for writer in writers:
        writer.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()


def _changed(frame: bytes, most: Mapping[int, int]) -> bytes:
    """An ApiVersions answer (version 3: correlation id, error, compact array of key, least, most, tags) with `most`."""
    changed = bytearray(frame)
    count, at = changed[6] - 1, 7
    assert changed[6] < 0x80, "a count of two bytes: more requests than were known when this was written"
    for _ in range(count):
        key, least, highest = struct.unpack_from(">hhh", changed, at)
        if key in most:
            # A request that is not known at all: under a number that nobody asks for.
            known = (key, least, min(highest, most[key])) if most[key] >= least else (9_999, 0, 0)
            struct.pack_into(">hhh", changed, at, *known)
        at += 7
    return bytes(changed)
