"""The gRPC server with its three services: the agent's own, health and reflection."""

from __future__ import annotations

import asyncio

import grpc
from gpusnap.v1 import snapshot_agent_pb2
from gpusnap.v1.snapshot_agent_pb2_grpc import add_SnapshotAgentServicer_to_server
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agent.rpc.interceptor import ErrorInterceptor
from agent.rpc.service import SnapshotAgentService

SERVICE_NAME = snapshot_agent_pb2.DESCRIPTOR.services_by_name["SnapshotAgent"].full_name
"""The name of the agent's own service, which is also its name for health checks."""

MESSAGE_BYTES = 4 << 20
"""Bytes of a message at most, in both directions: what clients accept by default."""

CALLS = 1024
"""Calls at once, those that watch included; more are refused with RESOURCE_EXHAUSTED."""

HEALTH_SECONDS = 1.0
"""How long telling the watchers of the health may take; one that does not read must not hold up the end."""

_OPTIONS = (
    # Two agents on one port would each get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A client whose machine vanished is noticed within 30 s + 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ping as often as every 10 s, or else they are sent away.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


class AgentServer:
    """A gRPC server; ``add_port`` comes first, then ``start``.

    Args:
        service: the agent's own service.
    """

    def __init__(self, service: SnapshotAgentService) -> None:
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor("/gpusnap.v1.")],
            options=_OPTIONS,
            maximum_concurrent_rpcs=CALLS,
        )
        self._health = health.aio.HealthServicer()
        add_SnapshotAgentServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def add_port(self, address: str) -> int:
        """Listens on an address in gRPC's notation and returns the port (1 for a socket in the file system).

        Raises:
            RuntimeError: it cannot.
        """
        return self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Begins to answer, as SERVING."""
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def announce_shutdown(self) -> None:
        """Answers health checks with NOT_SERVING from now on; everything else goes on."""
        try:
            await asyncio.wait_for(self._health.enter_graceful_shutdown(), HEALTH_SECONDS)
        except asyncio.TimeoutError:
            pass

    async def stop(self, grace: float) -> None:
        """Takes no new calls, lets the present ones end for ``grace`` seconds, and closes."""
        await self._server.stop(grace)
