"""Turns every error that a handler raises into a gRPC status. Nothing else sends one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from agent.errors import ErrorInfo, GpusnapError, InvalidRequestError, describe, is_defect
from agent.rpc.errors import DETAILS_KEY, code_of, status_of

if TYPE_CHECKING:
    _Context = grpc.aio.ServicerContext[object, object]
    _Unary = Callable[[object, _Context], Awaitable[object]]
    _Stream = Callable[[object, _Context], AsyncGenerator[object, None]]
    _Read = Callable[[bytes], object]
    _Request = TypeVar("_Request")
    _Response = TypeVar("_Response")

_log = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the services whose names begin with a prefix.

    Args:
        prefix: such as ``/gpusnap.v1.``.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        """Returns the call's handler, wrapped if it is one of ours."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        read = _reader(handler.request_deserializer)
        if handler.unary_stream is not None:
            guarded_stream = _guard_stream(method, cast("_Stream", handler.unary_stream))
            made = grpc.unary_stream_rpc_method_handler(guarded_stream, read, handler.response_serializer)
        else:
            guarded = _guard_unary(method, cast("_Unary", handler.unary_unary))
            made = grpc.unary_unary_rpc_method_handler(guarded, read, handler.response_serializer)
        return cast("grpc.RpcMethodHandler[_Request, _Response]", made)


class _NoMessage:
    """What came instead of a request."""


def _reader(deserialize: _Read | None) -> _Read | None:
    """Returns a deserializer that never fails: grpc would answer with the error's own text."""
    if deserialize is None:
        return None

    def read(data: bytes) -> object:
        try:
            return deserialize(data)
        except DecodeError:
            return _NoMessage()

    return read


def _demand_message(request: object) -> None:
    if isinstance(request, _NoMessage):
        raise InvalidRequestError("the request is no valid protobuf message", hint="compare the client with the proto")


def _guard_unary(method: str, behaviour: _Unary) -> _Unary:
    async def guarded(request: object, context: _Context) -> object:
        try:
            _demand_message(request)
            return await behaviour(request, context)
        except Exception as error:
            await _abort(method, context, error)

    return guarded


def _guard_stream(method: str, behaviour: _Stream) -> _Stream:
    async def guarded(request: object, context: _Context) -> AsyncGenerator[object, None]:
        try:
            _demand_message(request)
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:
            await _abort(method, context, error)

    return guarded


async def _abort(method: str, context: _Context, error: Exception) -> NoReturn:
    """Ends the call with the status of ``error``. The text of a defect stays in the agent's log."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    info: ErrorInfo
    if not is_defect(error):
        info = describe(error)
        _log.info("%s: %s: %s", method, info.reason, info.message)
    else:
        info = describe(GpusnapError("the agent has a defect"))
        _log.error("%s: a defect of the agent", method, exc_info=error)
    status = status_of(info)
    await context.abort(code_of(info.reason), status.message, ((DETAILS_KEY, status.SerializeToString()),))
