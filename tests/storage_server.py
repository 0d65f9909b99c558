"""A server of the Cloud Storage JSON protocol in memory, for tests of gs:// addresses.

It knows what gcsfs and TensorStore use: upload (media, multipart, resumable), download with ranges,
metadata, list, copy, move, delete; all with generation preconditions, on which TensorStore relies
for several writers. Names of buckets and objects are strings, contents are bytes.
"""

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ProtocolError(Exception):
    """An answer other than success."""

    def __init__(self, status):
        super().__init__(f"HTTP status {status}")
        self.status = status


@dataclasses.dataclass
class StoredObject:
    content: bytes
    generation: int


class Storage:
    """Buckets of objects; every method holds the lock."""

    def __init__(self, *buckets):
        self._buckets = {name: {} for name in buckets}
        self._generations = itertools.count(1)
        self._lock = threading.RLock()

    def _bucket(self, bucket):
        if bucket not in self._buckets:
            raise ProtocolError(404)
        return self._buckets[bucket]

    def buckets(self):
        with self._lock:
            return [{"kind": "storage#bucket", "name": name} for name in self._buckets]

    def write(self, bucket, name, content, conditions):
        with self._lock:
            objects = self._bucket(bucket)
            self._check(objects.get(name), conditions)
            objects[name] = StoredObject(content, next(self._generations))
            return self.describe(bucket, name)

    def read(self, bucket, name, conditions=()):
        with self._lock:
            found = self._bucket(bucket).get(name)
            if found is None:
                raise ProtocolError(404)
            self._check(found, conditions)
            return found

    def delete(self, bucket, name, conditions=()):
        with self._lock:
            self.read(bucket, name, conditions)
            del self._buckets[bucket][name]

    def describe(self, bucket, name):
        found = self.read(bucket, name)
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(found.content)),
            "generation": str(found.generation),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(found.content).digest()).decode(),
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def list(self, bucket, *, prefix="", delimiter="", start=""):
        with self._lock:
            items, prefixes = [], set()
            for name in sorted(self._bucket(bucket)):
                if not name.startswith(prefix) or name < start:
                    continue
                rest = name.removeprefix(prefix)
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    items.append(self.describe(bucket, name))
            return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    @staticmethod
    def _check(found, conditions):
        generation = str(found.generation) if found else "0"
        for name, value in dict(conditions).items():
            if name == "ifGenerationMatch" and value != generation:
                raise ProtocolError(412)
            if name == "ifGenerationNotMatch" and value == generation:
                raise ProtocolError(304)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: "StorageServer"

    def handle(self):
        # Clients may leave before the answer.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *arguments):
        pass

    def _answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if parts[0] == "upload":
                self._upload(parts[4], query, body)
            elif parts[0] == "download" or query.get("alt") == "media":
                self._download(parts[-3], parts[-1], query)
            else:
                self._metadata(parts[2:], query)
        except ProtocolError as error:
            text = {} if error.status == 304 else {"error": {"code": error.status, "message": ""}}
            self._answer(error.status, b"" if error.status == 304 else text)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _upload(self, bucket, query, body):
        storage, kind = self.server.storage, query.get("uploadType", "media")
        if kind == "multipart":
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            _, description, content, _ = body.split(b"--" + boundary, 3)
            name = json.loads(description.partition(b"\n\n")[2])["name"]
            content = content.partition(b"\n\n")[2].removesuffix(b"\n")
            self._answer(200, storage.write(bucket, name, content, query))
        elif kind == "resumable" and "upload_id" not in query:
            upload = str(next(self.server.upload_numbers))
            self.server.uploads[upload] = b""
            query = urllib.parse.urlencode(query | {"upload_id": upload})
            place = f"{self.server.address}/upload/storage/v1/b/{bucket}/o?{query}"
            self._answer(200, {}, Location=place)
        elif kind == "resumable":
            self.server.uploads[query["upload_id"]] += body
            content = self.server.uploads[query["upload_id"]]
            total = self.headers.get("Content-Range", "/*").rpartition("/")[2]
            if total == "*" or len(content) < int(total):
                self._answer(308, Range=f"bytes=0-{len(content) - 1}")
            else:
                self._answer(200, storage.write(bucket, query["name"], content, query))
        else:
            self._answer(200, storage.write(bucket, query["name"], body, query))

    def _download(self, bucket, name, query):
        found = self.server.storage.read(bucket, name, query)
        headers = {"x_goog_generation": str(found.generation)}
        total, (start, stop) = len(found.content), (0, len(found.content))
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else total - int(last)
            stop = min(int(last) + 1, total) if first and last else total
            if start >= total:
                raise ProtocolError(416)
            headers["Content_Range"] = f"bytes {start}-{stop - 1}/{total}"
        content = found.content[start:stop]
        fault = self.server.fault(name, start, stop)
        if isinstance(fault, int):
            raise ProtocolError(fault)
        if fault == "broken":  # fewer bytes than the header says, then the end
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        if fault == "short":  # a whole answer with fewer bytes than were asked for
            content = content[: len(content) // 2]
        self._answer(206 if asked else 200, content, **headers)

    def _metadata(self, parts, query):
        # b, b/BUCKET, b/BUCKET/o, b/BUCKET/o/NAME, .../rewriteTo/b/BUCKET/o/NAME, .../moveTo/o/NAME
        if len(parts) == 1:
            self._answer(200, {"kind": "storage#buckets", "items": self.server.storage.buckets()})
            return
        storage, bucket = self.server.storage, parts[1]
        if len(parts) == 2:
            storage.list(bucket)
            self._answer(200, {"kind": "storage#bucket", "name": bucket})
        elif len(parts) == 3:
            start = query.get("startOffset", "")
            options = {key: query.get(key, "") for key in ("prefix", "delimiter")}
            self._answer(200, storage.list(bucket, start=start, **options))
        elif len(parts) > 4:
            content = storage.read(bucket, parts[3]).content
            target = parts[6] if parts[4] == "rewriteTo" else bucket
            described = storage.write(target, parts[-1], content, {})
            if parts[4] == "moveTo":
                storage.delete(bucket, parts[3])
                self._answer(200, described)
            else:
                self._answer(200, {"done": True, "resource": described})
        elif self.command == "DELETE":
            storage.delete(bucket, parts[3], query)
            self._answer(204)
        else:
            self._answer(200, storage.describe(bucket, parts[3]))


class StorageServer(ThreadingHTTPServer):
    """Serves while it is entered.

    Attributes:
      storage: what it holds.
      address: of the endpoint.
      environment: variables with which gcsfs and TensorStore talk to it.
      fault: function of every download (name, start, stop in bytes): None, a status such as 503,
        "broken" or "short"; it may sleep.
    """

    daemon_threads = True

    def __init__(self, *buckets):
        super().__init__(("localhost", 0), Handler)
        self.storage = Storage(*buckets)
        self.uploads: dict[str, bytes] = {}
        self.upload_numbers = itertools.count()
        self.fault = lambda name, start, stop: None
        self.address = f"http://localhost:{self.server_address[1]}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "GOOGLE_AUTH_TOKEN": "none",
        }

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()
