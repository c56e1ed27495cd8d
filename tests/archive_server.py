"""A local HTTP server of archives that supports ranges and fails on demand."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class ArchiveServer:
    """What the server sends, how it fails, and what it was asked.

    Attributes:
        folder: files that it has.
        url: its address.
        ranges: whether it knows the header Range.
        statuses: answers of the next requests instead of the file; those after are good.
        cuts: after how many bytes of the file it closes the connection, for the next good answers.
        hold_after: bytes after which it sends nothing more, but keeps the connection.
        asked: (path, value of the header Range) of every request.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    hold_after: int | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(folder: Path) -> Iterator[ArchiveServer]:
    """Serve the files of a folder until the block ends."""
    state = ArchiveServer(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            path = state.folder / self.path.lstrip("/")
            status = state.statuses.pop(0) if state.statuses else 200 if path.is_file() else 404
            if status != 200:
                self.send_error(status)
                return
            content = path.read_bytes()
            start = 0
            if wanted and state.ranges:
                match = re.fullmatch(r"bytes=(\d+)-", wanted)
                assert match
                start = int(match[1])
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else len(content)
            if state.hold_after is not None:
                end = state.hold_after
            self.wfile.write(content[start:end])
            if state.hold_after is not None:
                self.wfile.flush()
                state.released.wait(30)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
