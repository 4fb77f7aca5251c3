"""Where the keys for an S3 store come from."""

from __future__ import annotations

import botocore.session

from agent.config.model import StorageConfig


def open_session(storage: StorageConfig) -> botocore.session.Session:
    """Returns a session with the explicit keys, or else the profile, or else the AWS default chain.

    It is botocore's: boto3's takes a tenth of a second more to import, on the way to the first byte.

    Raises:
        botocore.exceptions.ProfileNotFound: there is no such profile.
    """
    keys = storage.credentials
    session = botocore.session.Session(profile=storage.profile if storage.profile and not keys else None)
    if keys:
        session.set_credentials(keys.access_key_id, keys.secret_access_key, keys.session_token or None)
    return session
