"""Download one large file over HTTP, going on where an earlier call was interrupted.

With Python's own urllib, because neither curl nor wget is on every machine that has ESPnet, and
because both take a server's word for the length: here a server that offers another file is refused
before the first byte, not after hours. Proxies are taken from http_proxy and https_proxy.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from command_line import UserError
from progress import progress_bar

TIMEOUT_S = 60
MAX_PAUSE_S = 60.0
_BLOCK = 1 << 17  # what an interrupted call loses at most
# Answers after which the same request may succeed: timeout, too many requests, any server error.
_PASSING = {408, 429}


class _Lost(Exception):
    """The connection failed in a way that another attempt may mend; says how."""


class _Unreachable(_Lost):
    """There was no connection at all."""


def download(url: str, part: Path, size: int, *, tries: int = 10, pause_s: float = 1.0) -> None:
    """Fetch `url` into `part`, which may hold the beginning of it already.

    Args:
        url: http or https.
        part: file that is appended to; it keeps what has come when the download fails.
        size: length that the whole file must have, in bytes.
        tries: attempts in a row that may fail without a byte before this gives up.
        pause_s: before the second attempt; doubled with every further one, up to MAX_PAUSE_S.

    Raises:
        UserError: the server refuses, has a file of another size, or could not be reached.
        OSError: `part` cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--data_url: {url}: an address with http:// or https:// is needed")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    if part.stat().st_size > size:
        # Of another file, or of a server that repeated bytes.
        part.write_bytes(b"")
    failed = 0
    reached = False
    with progress_bar(
        total=size, initial=part.stat().st_size, desc=url, unit="B", unit_scale=True
    ) as bar:
        while (have := part.stat().st_size) < size:
            try:
                _go_on(url, part, have, size, bar)
                reason = "the connection was closed"
                reached = True
            except _Lost as lost:
                reason = str(lost)
                reached = reached or not isinstance(lost, _Unreachable)
            now = part.stat().st_size
            if now >= size:
                break
            failed = 0 if now > have else failed + 1
            # An address that was never reached is wrong, or there is no network.
            if failed >= tries or not reached:
                raise UserError(
                    f"{url}: {reason} ({failed} times in a row); {part} keeps {now} of {size}"
                    " bytes: run the same command again to go on, or give a mirror with --data_url"
                )
            time.sleep(min(pause_s * 2 ** max(failed - 1, 0), MAX_PAUSE_S))


def _go_on(url: str, part: Path, have: int, size: int, bar: Any) -> None:
    """Append to `part` until the server ends the answer."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _open(request) as response, open(part, "r+b") as stream:
        if response.status == 206:
            unit_and_range, _, offered = response.headers.get("Content-Range", "").partition("/")
            if not unit_and_range.startswith(f"bytes {have}-"):
                raise UserError(
                    f"{url}: asked for the bytes from {have} on, the server sends"
                    f" '{unit_and_range}'; give another server with --data_url"
                )
        else:
            # A server without ranges sends the whole file again.
            have = 0
            offered = response.headers.get("Content-Length", "")
        if offered not in ("", "*", str(size)):
            raise UserError(
                f"{url}: the server has a file of {offered} bytes, {size} expected; give another"
                " server with --data_url"
            )
        stream.truncate(have)
        stream.seek(have)
        bar.update(have - bar.n)
        while block := _read(response):
            try:
                stream.write(block)
            except OSError as error:
                error.filename = str(part)  # a failed write, unlike a failed open, names no file
                raise
            bar.update(len(block))


def _open(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        said = f"{error.code} {error.reason}".strip()
        error.close()
        if error.code < 500 and error.code not in _PASSING:
            raise UserError(
                f"{request.full_url}: the server answers {said}; give another with --data_url"
            ) from None
        raise _Lost(f"the server answers {said}") from None
    except urllib.error.URLError as error:
        raise _Unreachable(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(str(error) or type(error).__name__) from None


def _read(response: Any) -> bytes:
    try:
        block: bytes = response.read(_BLOCK)
    except http.client.IncompleteRead as error:
        return error.partial
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(str(error) or type(error).__name__) from None
    return block
