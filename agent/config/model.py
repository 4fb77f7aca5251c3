"""The configuration as typed values. Where each value comes from is decided in ``agent.config.load``."""

from __future__ import annotations

import enum

import msgspec

MIB = 1 << 20
GIB = 1 << 30


class Provider(enum.Enum):
    """The vendor of a store."""

    S3 = "s3"
    R2 = "r2"
    B2 = "b2"
    WASABI = "wasabi"
    LOCAL = "local"
    CUSTOM = "custom"


class EngineChoice(enum.Enum):
    """Which transfer engine moves chunks; ``auto`` finds out. A ``local`` store always uses ``directory``."""

    AUTO = "auto"
    S5CMD = "s5cmd"
    STREAM = "stream"


class PageCache(enum.Enum):
    """Whether restored large files are left in the page cache. The rule of ``auto``: ``agent.restore.page_cache``."""

    AUTO = "auto"
    WARM = "warm"
    BYPASS = "bypass"


class PerRequest(enum.Enum):
    """Whether a request may name its own storage."""

    ALLOW = "allow"
    FORBID = "forbid"
    REQUIRE = "require"


class Credentials(msgspec.Struct, frozen=True):
    """S3 keys; ``session_token`` is empty for long-lived ones."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(access_key_id={self.access_key_id!r}, ...)"


class StorageConfig(msgspec.Struct, frozen=True):
    """Where a repository is.

    Attributes:
        provider: the vendor.
        bucket: the bucket; empty means that no storage is configured (except for ``local``).
        prefix: the prefix of every key, without slashes at its ends.
        endpoint: the endpoint's URL (``custom``, or to override a vendor's), or the folder (``local``).
        region: the region; empty for the vendor's default.
        profile: the profile in the AWS credentials file; empty for the default chain.
        credentials: explicit keys; ``None`` for the AWS default chain (variables, profile, instance role).
        per_request: whether a request may name its own storage.
    """

    provider: Provider = Provider.S3
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    profile: str = ""
    credentials: Credentials | None = None
    per_request: PerRequest = PerRequest.ALLOW

    @property
    def configured(self) -> bool:
        """Whether it names a store at all."""
        return bool(self.endpoint if self.provider is Provider.LOCAL else self.bucket)


class TransferConfig(msgspec.Struct, frozen=True):
    """How chunks are moved.

    The memory of an operation, in bytes, is at most::

        staging_size                     chunks on their way: in the staging folder (s5cmd; on tmpfs it is memory),
                                         or in reused memory (stream; directory when it restores), there at most two
                                         thirds of it and a quarter of what is free, or 257 MiB if that is more (half
                                         of it for each of both engines, while ``auto`` compares them)
        + workers * (64 + 8 + 32 MiB)    one pack, two LZ4 blocks and the process itself, each worker
        + 64 MiB                         the process itself and the manifest's current sections
        + at most 64 MiB                 the files of a target that is not empty, before anything is fetched
        + about 2 MiB * connections      s5cmd; stream: 0.4 MiB * connections

    Attributes:
        engine: which engine moves chunks.
        connections: connections to the store at once, those of worker processes that fetch segments among them; a chunk
            on its way uses up to 8 (s5cmd) or 16 (stream).
        staging_size: bytes of chunks on their way at once. One that is uploaded takes what it was compressed to, up to
            64 MiB, and one connection; with stream, segments that LZ4 does not shrink may be on their way besides.
        workers: worker processes that pack or write; 0 for one per core (at least 2, at most 8, and no more than memory
            allows: ``agent.pipeline.workers``); 1 for none, so that the operation's own process does it.
        s5cmd_path: the s5cmd program; empty to find it beside this Python and on PATH.
        page_cache: whether restored large files are left in the page cache.
        retry_seconds: how long a store that does not answer is tried before the operation fails. The default survives
            an outage of a minute, and a wrong endpoint is still reported within two.
    """

    engine: EngineChoice = EngineChoice.AUTO
    connections: int = 64
    staging_size: int = 384 * MIB
    workers: int = 0
    s5cmd_path: str = ""
    retry_seconds: float = 120.0
    page_cache: PageCache = PageCache.AUTO


class ScanConfig(msgspec.Struct, frozen=True):
    """What the scan tells apart.

    Attributes:
        model_suffixes: endings of names, in lower case, that make a file a model.
        large_file_size: files of at least this many stored bytes get segments of their own.
    """

    model_suffixes: tuple[str, ...] = (
        ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".onnx", ".npz", ".npy", ".h5",
        ".msgpack", ".tflite", ".engine", ".pb", ".mlmodel", ".keras",
    )  # fmt: skip
    large_file_size: int = 16 * MIB

    @property
    def suffixes(self) -> tuple[bytes, ...]:
        """``model_suffixes`` as names of files have them, in bytes."""
        return tuple(suffix.encode() for suffix in self.model_suffixes)


class AgentConfig(msgspec.Struct, frozen=True):
    """How the daemon runs.

    Attributes:
        listen: gRPC addresses, ``unix:PATH`` or ``HOST:PORT`` on loopback.
        metrics_listen: the address of the Prometheus metrics; empty for none.
        state_dir: the folder of the journal, and of what was measured.
        staging_dir: the folder for chunks on their way.
        workspace_roots: folders whose contents may be saved and restored.
        log_level: debug, info, warning or error.
        drain_seconds: how long SIGTERM lets running operations go on before they are stopped.
        resume_on_start: continue at the start what a former run of the agent did not bring to its end.
        standby: keep a process ready for the next operation, with two of its workers. All three take some 45 MiB.
    """

    listen: tuple[str, ...] = ("unix:/run/gpusnap/agent.sock", "127.0.0.1:7447")
    metrics_listen: str = "127.0.0.1:9447"
    state_dir: str = "/var/lib/gpusnap"
    staging_dir: str = "/run/gpusnap/staging"
    workspace_roots: tuple[str, ...] = ("/workspace",)
    log_level: str = "info"
    drain_seconds: float = 5.0
    resume_on_start: bool = True
    standby: bool = True


class Config(msgspec.Struct, frozen=True):
    """The whole configuration; each attribute is a table of agent.toml.

    Attributes:
        providers: further stores by their names, each a table [providers.NAME], to compare with `gpusnap bench`.
    """

    agent: AgentConfig = AgentConfig()
    transfer: TransferConfig = TransferConfig()
    storage: StorageConfig = StorageConfig()
    scan: ScanConfig = ScanConfig()
    providers: dict[str, StorageConfig] = {}
