"""The HTTP layer, at the level of bytes."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from estafeta.local.api.http import MAX_BODY_BYTES, HttpProtocol, Reply, Request, Response

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def converse(application, talk: Talk) -> None:
    """Run a server with an application, and one client."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: HttpProtocol(application), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(10):
            await talk(reader, writer)
        writer.close()
        await writer.wait_closed()
        server.close()

    asyncio.run(run())


def mirror(request: Request, reply: Reply) -> None:
    text = f"{request.method} {request.segments} {request.query} {request.headers.get('x')} {len(request.body)}"
    reply(Response(200, text.encode()))


def test_requests_are_parsed_and_the_connection_is_kept() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(b"POST /a%2Fb/c?q=%24x&e= HTTP/1.1\r\nX: 1\r\nX: 2\r\nContent-Length: 3\r\n\r\nabc")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(len(b"POST ['a/b', 'c'] {'q': '$x', 'e': ''} 1,2 3")) == (
                b"POST ['a/b', 'c'] {'q': '$x', 'e': ''} 1,2 3"
            )

    converse(mirror, talk)


def test_a_body_may_come_in_pieces_and_chunks() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"PUT / HTTP/1.1\r\nTransfer-Enc")
        await writer.drain()
        writer.write(b"oding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(16) == b"PUT [] {} None 5"

    converse(mirror, talk)


def test_answers_come_in_the_order_of_the_requests_even_if_held() -> None:
    held: list[Reply] = []

    def application(request: Request, reply: Reply) -> None:
        if request.target == "/held":
            held.append(reply)
        else:
            reply(Response(200, request.target.encode()))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /held HTTP/1.1\r\n\r\nGET /second HTTP/1.1\r\n\r\n")
        while not held:
            await asyncio.sleep(0)
        held.pop()(Response(202, b"first"))
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"first"
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(7) == b"/second"

    converse(application, talk)


def test_a_reply_to_a_client_that_has_gone_is_dropped() -> None:
    held: list[Reply] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        while not held:
            await asyncio.sleep(0)
        writer.transport.abort()
        for _ in range(20):
            await asyncio.sleep(0.001)
        held.pop()(Response(200))

    converse(lambda request, reply: held.append(reply), talk)


def test_non_http_and_too_large_bodies_are_refused() -> None:
    async def no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request\r\n")

    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1))
        writer.write(bytes(MAX_BODY_BYTES + 1))
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")

    converse(mirror, no_http)
    converse(mirror, too_large)


def test_a_defect_of_the_application_is_logged_and_said(caplog: pytest.LogCaptureFixture) -> None:
    def application(request: Request, reply: Reply) -> None:
        raise LookupError(request.target)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /broken HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")

    converse(application, talk)
    assert "LookupError: /broken" in caplog.text


def test_close_is_honoured_and_204_has_no_length() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert await reader.read() == b"HTTP/1.1 204 No Content\r\n\r\n"

    converse(lambda request, reply: reply(Response(204)), talk)
