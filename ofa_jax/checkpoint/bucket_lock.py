"""The lock of a directory in a bucket: an object, written only over the generation seen."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fsspec.asyn import sync

from ofa_jax.checkpoint.bucket import fail_clearly, file_system


class BucketFile:
    """A `ofa_jax.lock.SharedFile` in Google Cloud Storage; its mark is the generation.

    Attributes:
      address: of the object.
    """

    def __init__(self, address: str):
        """Args: address: such as gs://bucket/run/.lock."""
        self.address = address
        self._files = file_system()
        self._bucket, self._key, _ = self._files.split_path(address)

    @fail_clearly("read")
    def read(self) -> tuple[bytes, Any]:
        """See `SharedFile`.

        Raises:
          CheckpointError: the bucket cannot be read.
        """
        try:
            headers, content = self._call("GET", "b/{}/o/{}", self._bucket, self._key, alt="media")
        except FileNotFoundError:
            return b"", "0"
        return content, headers["x-goog-generation"]

    @fail_clearly("write to")
    def replace(self, content: bytes, mark: Any) -> Any:
        """See `SharedFile`.

        Raises:
          CheckpointError: the bucket cannot be written.
        """
        condition = {"ifGenerationMatch": mark}
        try:
            if not content:
                self._call("DELETE", "b/{}/o/{}", self._bucket, self._key, **condition)
                return "0"
            place = f"{self._files._location}/upload/storage/v1/b/{quote(self._bucket)}/o"
            options = {"uploadType": "media", "name": self._key, "json_out": True, **condition}
            return self._call("POST", place, data=content, **options)["generation"]
        except FileNotFoundError:
            return None
        except FileExistsError:  # What gcsfs makes of "precondition failed".
            # Perhaps this very request came through and its answer was lost.
            there, mark = self.read()
            return mark if there == content else None

    def _call(self, *arguments: Any, **options: Any) -> Any:
        return sync(self._files.loop, self._files._call, *arguments, **options)
