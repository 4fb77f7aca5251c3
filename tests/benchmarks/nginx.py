"""nginx as a store that costs next to nothing, and as the TLS end of another store.

As a store it keeps what is PUT as files on tmpfs and serves them by range; it checks no signature. Listings are always
empty, which is all that a snapshot into a new bucket and a restore of a snapshot named by its whole id need. It has
no multipart uploads: tools that need them, or real listings, cannot be measured against it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

from controller_client.demo.children import free_port, start_child, stop_child
from tests.support.processes import wait_until

FURTHER_PATH = ":/usr/sbin"
"""Where a user's PATH seldom leads."""

_FRAME = """\
{user}
worker_processes auto;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/incoming;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    {upstream}
    server {{
        listen 127.0.0.1:{port}{ssl};
        {certificate}
        {locations}
    }}
}}
"""

_STORE = """\
        root {folder}/data;
        default_type application/octet-stream;
        location ~ ^/[^/]+/?$ {{
            default_type application/xml;
            return 200 '<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>';
        }}
        location / {{
            dav_methods PUT DELETE;
            create_full_put_path on;
            error_page 404 = @missing;
        }}
        location @missing {{
            default_type application/xml;
            return 404 '<Error><Code>NoSuchKey</Code><Message>no such object</Message></Error>';
        }}
"""

_UPSTREAM = "upstream store {{ server {server}; keepalive 128; }}"

_FRONT = """\
        location / {
            proxy_pass http://store;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_buffering off;
        }
"""


class Nginx:
    """One running nginx with all its files in one folder.

    Args:
        folder: an existing empty folder; for a store one on tmpfs.
        server: ``HOST:PORT`` of the store to stand before; empty to be a store.
        certificate: a file with a certificate and its key, to speak TLS.

    Raises:
        FileNotFoundError: nginx is missing.
    """

    def __init__(self, folder: Path, server: str = "", certificate: Path | None = None) -> None:
        program = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + FURTHER_PATH)
        if program is None:
            raise FileNotFoundError("nginx is missing")
        self.port = free_port(set())
        self._data = folder / "data"
        self._data.mkdir()
        configuration = folder / "nginx.conf"
        configuration.write_text(_configuration(folder, self.port, server, certificate))
        arguments = [program, "-p", str(folder), "-c", str(configuration), "-g", "daemon off;", "-e", "stderr"]
        with (folder / "nginx.log").open("wb") as log:
            self._process = start_child(arguments, environment={}, log=log)
        wait_until(self._answers, f"nginx to start: {folder}/nginx.log", 10.0)

    @property
    def pid(self) -> int:
        """Its first process; the others are its children."""
        return self._process.pid

    def make_bucket(self) -> str:
        """Makes an empty bucket and returns its name."""
        name = f"bucket-{uuid.uuid4().hex[:16]}"
        (self._data / name).mkdir(mode=0o777)
        return name

    def remove_bucket(self, bucket: str) -> None:
        """Removes a bucket with its objects."""
        shutil.rmtree(self._data / bucket)

    def stop(self) -> None:
        """Ends it."""
        stop_child(self._process, 10.0)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "nginx ended at its start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def make_certificate(folder: Path) -> Path:
    """Makes a certificate for 127.0.0.1 that signs itself, with its key in the same file.

    Raises:
        FileNotFoundError: openssl is missing.
    """
    if shutil.which("openssl") is None:
        raise FileNotFoundError("openssl is missing")
    path = folder / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=gpusnap benchmark",
    ]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(path)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    with path.open("ab") as file:
        file.write((folder / "key.pem").read_bytes())
    return path


def _configuration(folder: Path, port: int, server: str, certificate: Path | None) -> str:
    tls = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};" if certificate else ""
    return _FRAME.format(
        # As root it would write as another user, who may not enter the folder.
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        port=port,
        ssl=" ssl" if certificate else "",
        certificate=tls,
        upstream=_UPSTREAM.format(server=server) if server else "",
        locations=_FRONT if server else _STORE.format(folder=folder),
    )
