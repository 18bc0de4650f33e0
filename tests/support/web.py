"""A server on this machine, for what is fetched from one."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """Answers without a line on stderr for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Gives the address of a server for as long as the block runs.

    Args:
        handler: answers it.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@contextmanager
def serving_files(files: dict[str, bytes], *, parts: bool = True) -> Iterator[str]:
    """Gives the address of a server of files for as long as the block runs.

    Args:
        files: contents by path, such as `/a/b.tar`.
        parts: whether it sends the parts of files that it is asked for.
    """

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "") if parts else None
            begin, end = (int(asked[1]), int(asked[2] or len(content) - 1) + 1) if asked else (0, len(content))
            end = min(end, len(content))
            self.send_response(206 if asked else 200)
            if parts:
                self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(OSError):  # who asked may have gone
                    self.wfile.write(content[begin:end])

        do_HEAD = do_GET

    with serving(Handler) as address:
        yield address
