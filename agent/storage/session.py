"""Where the keys for an S3 store come from."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from agent.config.model import StorageConfig
from agent.storage.sigv4 import Keys

if TYPE_CHECKING:
    import botocore.credentials


class NoKeysError(Exception):
    """There are no keys; the text says why."""


class KeySource:
    """Gives the explicit keys, or else those of the profile or of the AWS default chain. For any thread.

    Args:
        storage: names the keys.
        region: the region that requests are signed for.
    """

    def __init__(self, storage: StorageConfig, region: str) -> None:
        self._storage = storage
        self._region = region
        self._lock = threading.Lock()
        self._chain: botocore.credentials.Credentials | None = None

    def keys(self) -> Keys:
        """Returns the keys of now: short-lived ones are renewed when they run out.

        Raises:
            NoKeysError: there are none.
        """
        given = self._storage.credentials
        if given is not None:
            return Keys(given.access_key_id, given.secret_access_key, given.session_token, self._region)
        # Not at the top: botocore takes a tenth of a second, on the way to the first byte.
        from botocore.exceptions import BotoCoreError

        try:
            found = self._find()
            if found is None:
                raise NoKeysError("no credentials were found")
            now = found.get_frozen_credentials()
        except BotoCoreError as error:
            raise NoKeysError(" ".join(str(error).split())) from error
        return Keys(now.access_key, now.secret_key, now.token or "", self._region)

    def _find(self) -> botocore.credentials.Credentials | None:
        import botocore.session

        with self._lock:
            if self._chain is None:
                session = botocore.session.Session(profile=self._storage.profile or None)
                self._chain = session.get_credentials()
            return self._chain
