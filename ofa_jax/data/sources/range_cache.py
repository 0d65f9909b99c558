"""Ranges of files in a bucket, kept on a disk of this machine up to a number of bytes.

One SQLite file: several threads and processes may use it at once, and whatever kills one of them
leaves it whole. What was not used for longest makes room. It is only a cache: where the disk is
full or the file is damaged, reading goes on without it, with one warning.
"""

from __future__ import annotations

import logging
import os
import pathlib
import sqlite3
import threading
import time

logger = logging.getLogger("ofa_jax")

NAME = "ranges.sqlite"
_PAGE = 8192
# Uses that are noted together.
_NOTED_AT_ONCE = 32
_PATIENCE = 60.0
_TABLES = """
CREATE TABLE IF NOT EXISTS contents (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS uses
    (key TEXT PRIMARY KEY, id INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON uses (used, key, id);
"""


class RangeCache:
    """Least recently used ranges go first; the file stays below `limit` bytes.

    Beside it SQLite has a log of some MB. The directory must be a local disk: SQLite's locks do not
    work over a network.

    Attributes:
      path: the SQLite file.
      limit: bytes.
    """

    def __init__(self, directory: str | os.PathLike[str], limit: int):
        """Args: directory: made where it does not exist. limit: bytes, at least a megabyte."""
        self.path, self.limit = pathlib.Path(directory).expanduser() / NAME, limit
        self._mine = threading.local()
        self._gave_up = False

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None where it is not there any more."""
        try:
            rows = self._connection().execute(
                "SELECT content FROM uses JOIN contents USING (id) WHERE key = ?", (key,)
            )
            row = rows.fetchone()
            if row is None:
                return None
            self._mine.used.append((time.time_ns(), key))
            if len(self._mine.used) >= _NOTED_AT_ONCE:
                with self._writing() as connection:
                    self._note_uses(connection)
            return row[0]
        except (sqlite3.Error, OSError) as error:
            self._warn(error)
            return None

    def put(self, key: str, content: bytes) -> None:
        """Keeps bytes, and drops what was not used for longest where they find no room."""
        # Pages of tables and index come beside the content.
        needed = len(content) + 16 * _PAGE
        if self._gave_up or needed > self.limit:
            return
        try:
            with self._writing() as connection:
                if connection.execute("SELECT 1 FROM uses WHERE key = ?", (key,)).fetchone():
                    return
                self._note_uses(connection)
                self._make_room(connection, needed)
                row = connection.execute("INSERT INTO contents (content) VALUES (?)", (content,))
                connection.execute(
                    "INSERT INTO uses VALUES (?, ?, ?)", (key, row.lastrowid, time.time_ns())
                )
        except (sqlite3.Error, OSError) as error:
            self._warn(error)

    def _make_room(self, connection: sqlite3.Connection, needed: int) -> None:
        def number(pragma: str) -> int:
            return connection.execute(f"PRAGMA {pragma}").fetchone()[0]

        while (number("page_count") - number("freelist_count")) * _PAGE + needed > self.limit:
            oldest = connection.execute("SELECT key, id FROM uses ORDER BY used LIMIT 1").fetchone()
            if oldest is None:
                return
            connection.execute("DELETE FROM uses WHERE key = ?", oldest[:1])
            connection.execute("DELETE FROM contents WHERE id = ?", oldest[1:])
        if number("page_count") * _PAGE > self.limit:  # the limit was larger before
            connection.execute("PRAGMA incremental_vacuum").fetchall()

    def _note_uses(self, connection: sqlite3.Connection) -> None:
        connection.executemany("UPDATE uses SET used = ? WHERE key = ?", self._mine.used)
        self._mine.used.clear()

    def _writing(self) -> _Writing:
        return _Writing(self._connection())

    def _connection(self) -> sqlite3.Connection:
        """The connection of this thread of this process."""
        if self._gave_up:
            raise OSError("the cache is not used any more")
        if getattr(self._mine, "process", None) != os.getpid():
            self._mine.connection = self._opened()
            self._mine.used = []
            self._mine.process = os.getpid()
        return self._mine.connection

    def _opened(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + _PATIENCE
        while True:
            connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            try:
                # Only a new file takes the first two.
                connection.execute(f"PRAGMA page_size = {_PAGE}")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(_TABLES)
                return connection
            except sqlite3.OperationalError as error:
                # Several processes make it at once, which SQLite does not wait for.
                connection.close()
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def _warn(self, error: Exception) -> None:
        if not self._gave_up:
            self._gave_up = True
            logger.warning(
                "the cache %s cannot be used (%s); reading goes on without it", self.path, error
            )


class _Writing:
    """A transaction that is written at the end of the block, or not at all."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, error_type: type | None, *further: object) -> None:
        self._connection.execute("COMMIT" if error_type is None else "ROLLBACK")
