"""The connection to one agent."""

from __future__ import annotations

import grpc.aio

KEEPALIVE_SECONDS = 30.0
"""How often a silent connection is probed. The agent must allow pings this often."""
KEEPALIVE_TIMEOUT_SECONDS = 10.0
"""How long a probe may stay unanswered before the connection counts as lost."""

CONNECT_SECONDS = 5.0
"""How long one try to connect may take (what C-core's min_reconnect_backoff bounds)."""

_MIB = 1 << 20


def open_channel(target: str) -> grpc.aio.Channel:
    """Returns a channel to a gRPC target; it connects with the first call.

    Reconnecting backs off to 2 s at most: an agent that restarts is back within seconds, and gRPC's own bound is 120 s.
    """
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.max_receive_message_length", 64 * _MIB),
            ("grpc.enable_http_proxy", 0),
        ],
    )
