"""Where the keys for an S3 store come from."""

from __future__ import annotations

import boto3

from agent.config.model import StorageConfig


def open_session(storage: StorageConfig) -> boto3.Session:
    """Returns a session with the explicit keys, or else the profile, or else the AWS default chain.

    Raises:
        botocore.exceptions.ProfileNotFound: there is no such profile.
    """
    keys = storage.credentials
    return boto3.Session(
        aws_access_key_id=keys.access_key_id if keys else None,
        aws_secret_access_key=keys.secret_access_key if keys else None,
        aws_session_token=(keys.session_token or None) if keys else None,
        profile_name=(storage.profile or None) if not keys else None,
    )
