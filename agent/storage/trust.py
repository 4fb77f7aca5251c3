"""Whose certificates are trusted."""

from __future__ import annotations

import os
import ssl

from agent.errors import ConfigError


def trust() -> ssl.SSLContext:
    """Returns the system's trust, with AWS_CA_BUNDLE as in other S3 clients; on a system without any, botocore's.

    Raises:
        ConfigError: AWS_CA_BUNDLE cannot be read.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    bundle = os.environ.get("AWS_CA_BUNDLE", "")
    paths = ssl.get_default_verify_paths()
    if not (bundle or paths.cafile or paths.capath):
        import botocore  # not at the top: few systems are without trust

        bundle = os.path.join(os.path.dirname(botocore.__file__), "cacert.pem")
    if bundle:
        try:
            context.load_verify_locations(bundle)
        except OSError as error:
            raise ConfigError(f"AWS_CA_BUNDLE: {bundle} cannot be read: {error.strerror or error}") from error
    return context
