"""Drives gpusnap agents: ``AgentClient`` for asyncio, ``SyncAgentClient`` for everything else."""

from controller_client import errors, model
from controller_client.client import AgentClient
from controller_client.errors import AgentUnreachableError, DataLossError, GpusnapError
from controller_client.names import show_path
from controller_client.operation import OperationHandle
from controller_client.reattach import ReattachPolicy
from controller_client.reports import KeepRules
from controller_client.sync import SyncAgentClient, SyncOperationHandle

__all__ = [
    "AgentClient",
    "AgentUnreachableError",
    "DataLossError",
    "GpusnapError",
    "KeepRules",
    "OperationHandle",
    "ReattachPolicy",
    "SyncAgentClient",
    "SyncOperationHandle",
    "errors",
    "model",
    "show_path",
]
