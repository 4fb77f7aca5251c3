"""The interceptor under a real server: our errors, defects, and handlers that end as they should."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
import pytest_asyncio

from agent.errors import PathNotFoundError
from agent.rpc.interceptor import ErrorInterceptor
from tests.support.rpc import SECONDS, error_info

Context = grpc.aio.ServicerContext[bytes, bytes]
Failure = Callable[[], None]


def ours() -> None:
    raise PathNotFoundError("/x does not exist", metadata={"path": "/x"})


def defect() -> None:
    raise RuntimeError("a secret")


def fine() -> None:
    pass


FAILURES: dict[bytes, Failure] = {b"ours": ours, b"defect": defect, b"fine": fine}


async def answer(request: bytes, context: Context) -> bytes:
    FAILURES[request]()
    return b"done"


async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield b"first"
    FAILURES[request]()
    yield b"last"


@pytest_asyncio.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[ErrorInterceptor("/ours.")])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Answer": grpc.unary_unary_rpc_method_handler(answer),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    for service in ("ours.Service", "theirs.Service"):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def unary(channel: grpc.aio.Channel, service: str, request: bytes) -> list[bytes]:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{service}/Answer")
    return [await method(request, timeout=SECONDS)]


async def streamed(channel: grpc.aio.Channel, service: str, request: bytes) -> list[bytes]:
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{service}/Stream")
    return [response async for response in method(request, timeout=SECONDS)]


Method = Callable[[grpc.aio.Channel, str, bytes], Awaitable[list[bytes]]]


async def test_what_is_fine_passes(channel: grpc.aio.Channel) -> None:
    for service in ("ours.Service", "theirs.Service"):
        assert await unary(channel, service, b"fine") == [b"done"]
        assert await streamed(channel, service, b"fine") == [b"first", b"last"]


@pytest.mark.parametrize("method", [unary, streamed])
async def test_our_errors_become_their_status(channel: grpc.aio.Channel, method: Method) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await method(channel, "ours.Service", b"ours")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "/x does not exist"
    info = error_info(raised.value)
    assert (info.reason, info.metadata["path"]) == ("PATH_NOT_FOUND", "/x")


@pytest.mark.parametrize("method", [unary, streamed])
async def test_a_defect_is_logged_and_not_told(
    channel: grpc.aio.Channel, method: Method, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await method(channel, "ours.Service", b"defect")
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(raised.value)
    assert error_info(raised.value).reason == "INTERNAL"
    assert "RuntimeError: a secret" in caplog.text


async def test_other_services_are_left_alone(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await unary(channel, "theirs.Service", b"ours")
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
