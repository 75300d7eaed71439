"""A loopback server that writes what it is told, byte by byte: what no server of the protocol sends.

with RawServer(bomb(600)) as server:
    api_for(server.url)
"""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections.abc import Awaitable, Callable, Mapping

Writes = Callable[[asyncio.StreamWriter], Awaitable[None]]
MEGABYTE = 2**20
JSON = {"Content-Type": "application/json"}


class RawServer:
    """Reads a request, has `writes` write something, and closes the connection unless `keep`; in a thread of its own.

    A list of `writes` is met in the order of arrival, and its last one stands for the rest.
    """

    def __init__(self, *writes: Writes, keep: bool = False) -> None:
        self.writes, self.keep, self.url = writes, keep, ""
        self.requests: list[bytes] = []
        self.whole = 0  # replies that were written to their end
        self._loop, started = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=2048)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                server.close()
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)

        self._main = self._loop.create_task(main())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0"
                )
                self.requests.append(head + await reader.readexactly(int(length.partition(b":")[2])))
                await self.writes[min(len(self.requests), len(self.writes)) - 1](writer)
                await writer.drain()
                self.whole += 1
                if not self.keep:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def head(status: int = 200, headers: Mapping[str, str] = JSON) -> bytes:
    return "\r\n".join(
        [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    ).encode()


def reply(body: str | bytes, status: int = 200, length: int | None = None, **headers: str) -> Writes:
    """A body as it is, with another length than it has if one is given."""
    body = body.encode() if isinstance(body, str) else body
    told = JSON | {"Content-Length": str(len(body) if length is None else length)}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}

    async def writes(writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, told) + body)

    return writes


def completion(content: object = "Hello.", **changes: object) -> str:
    """A chat completion's body."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
    return json.dumps(
        {"object": "chat.completion", "model": "gpt-test", "choices": [choice], "usage": usage, **changes}
    )


def bomb(megabytes: int, status: int = 200, chunked: bool = False, start: bytes = b'{"choices": "') -> Writes:
    """So much text."""

    async def writes(writer: asyncio.StreamWriter) -> None:
        size = len(start) + megabytes * MEGABYTE
        told = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
        writer.write(head(status, JSON | told))
        for block in [start, *[b"x" * MEGABYTE] * megabytes]:
            writer.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")

    return writes


def packed(megabytes: int, encoding: str, status: int = 200, **headers: str) -> Writes:
    """So much text in a thousandth, as gzip or deflate; "gzip, gzip" is packed twice."""
    body = zlib.compress(b"", 9, 31) if "gzip" in encoding else b""
    for number, kind in enumerate(encoding.split(", ")):
        packer = zlib.compressobj(9, wbits=31 if kind == "gzip" else 15)
        blocks = [body] if number else (b"x" * MEGABYTE for _ in range(megabytes))
        body = b"".join(packer.compress(block) for block in blocks) + packer.flush()
    return reply(body, status, None, **{"Content_Encoding": encoding, **headers})


def drip(
    body: bytes = b"{", seconds: float = 0.2, told: bytes = head(200, JSON | {"Content-Length": "1000000"})
) -> Writes:
    """A head, then the same bytes again and again."""

    async def writes(writer: asyncio.StreamWriter) -> None:
        writer.write(told)
        while True:
            writer.write(body)
            await writer.drain()
            await asyncio.sleep(seconds)

    return writes


def endless(block: bytes, told: bytes) -> Writes:
    """A head, then the same bytes without a pause."""
    return drip(block, 0.0, told)
