"""Fetches a file from one of several mirrors, by one process at a time; resumes an interrupted download."""

import http.client
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from cifar_lightning.data.bar import bar
from cifar_lightning.data.cache import HIDDEN
from cifar_lightning.data.cifar10 import Archive
from cifar_lightning.data.layouts.archive import GZIP, digest
from cifar_lightning.errors import InputError
from cifar_lightning.files import check_reachable, exists, is_dir, is_file, part_of, publish, user_path
from cifar_lightning.locks import locked

MIRROR_VARIABLE = "CIFAR_LIGHTNING_MIRROR"

TIMEOUT = 15.0  # seconds without receiving a byte, while connecting or later
SPEED_WINDOW = 20.0  # seconds over which the speed is measured
MIN_SPEED = 200_000.0  # bytes per second; a slower source is abandoned for the next
CRAWL_SPEED = 5_000.0  # the limit for later attempts, when no source was faster: the user's own line may be slow
MAX_ASKS = 3  # attempts per source; there is another one only after a `_BrokeOff`
CHUNK = 2**16
T = TypeVar("T")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Refused(Exception):
    """The reason why a source is abandoned for the next."""


class _BrokeOff(_Refused):
    """The same, for a source that is worth another attempt."""


def fetch(archive: Archive, path: Path, *, mirror: str | None, sha256: str | None, others: str = "") -> None:
    """Fetches the archive to `path` unless something is already there. Processes may call it concurrently.

    Args:
        archive: What to fetch.
        path: Where to put it. A partial download is kept beside it between runs, with the suffix .part. If files cannot
            be locked, each process fetches its own copy from the start.
        mirror: The only place to ask: URL of the archive or of its folder, or a local file or folder.
            Default: the variable CIFAR_LIGHTNING_MIRROR, then the archive's own list.
        sha256: Digest of a user's own archive, which replaces the pinned one.
        others: What the user may provide instead of the archive, for the error message.

    Raises:
        InputError: No source had the archive (the message gives each source and its reason), the disk cannot be written
            to, or `mirror` is not a valid place.
    """
    if exists(path):
        return
    if mirror := mirror or os.environ.get(MIRROR_VARIABLE):
        archive = replace(archive, urls=(_place(mirror, archive.name),))
    if sha256:
        archive = replace(archive, sha256=sha256, size=None)
    with _disk(path), locked(path.parent / HIDDEN) as alone:
        if exists(path):  # another process has fetched it while this one waited
            return
        part = path.with_name(f"{path.name}.part") if alone else part_of(path)
        try:
            _fetch(archive, path, part, f" (or one of {others} in its folder)" if others else "")
        finally:
            if not alone:  # without a lock nobody can tell whether this file is in use, so nobody can resume it
                part.unlink(missing_ok=True)


def _fetch(archive: Archive, path: Path, part: Path, other: str) -> None:
    reasons: dict[str, str] = {}
    queue = [(source, MIN_SPEED) for source in archive.urls]
    for source, speed in queue:  # which grows in the loop
        try:
            _obtain(source, archive, part, speed)
        except _Refused as reason:
            reasons[source] = str(reason)
            if isinstance(reason, _BrokeOff) and sum(source == s for s, _ in queue) < MAX_ASKS:
                queue.append((source, CRAWL_SPEED))
        else:
            publish(part, path)
            return
    listed = "; ".join(f"{source} ({reason})" for source, reason in reasons.items())
    raise InputError(
        f"cannot download {archive.name}: {listed}; put the file at {path} yourself{other}, or use --data.source "
        "synthetic, which needs no download"
    )


def _obtain(source: str, archive: Archive, part: Path, speed: float) -> None:
    """Fills `part` from one source and checks its digest; deletes it if the digest is wrong."""
    resumed = exists(part)
    if "://" in source:
        _transfer(source, archive, part, speed)
    else:
        _copy(Path(source), part)
    found = digest(part)
    if found == archive.sha256:
        return
    part.unlink()
    if not (resumed and "://" in source):
        raise _Refused(f"has SHA-256 {found}, expected {archive.sha256}")
    _obtain(source, archive, part, speed)  # from the start: the resumed piece may have been bad


def _copy(source: Path, part: Path) -> None:
    with ExitStack() as files:
        file = _read(lambda: files.enter_context(open(source, "rb")))
        with _disk(part), open(part, "wb") as out:
            while chunk := _read(lambda: file.read(2**20)):
                out.write(chunk)


def _transfer(url: str, archive: Archive, part: Path, speed: float) -> None:
    """Appends to `part` what it lacks, or writes it anew if the server sends everything."""
    size = archive.size
    have = part.stat().st_size if exists(part) else 0
    if size is not None and have >= size:
        return  # the caller's check of the digest tells whether it is whole
    if (response := _ask(url, have)) is None:
        return  # the server has nothing left to send; the digest tells whether that is true
    with response:
        length = response.headers.get("Content-Length", "")
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _Refused("sent another range than requested")
        else:
            have = 0
        total = have + int(length) if length.isdigit() else size
        if "text/html" in response.headers.get("Content-Type", ""):
            raise _Refused("sent a web page, not a gzip archive")
        if size is not None and total != size:
            raise _Refused(f"has {total:,} bytes, expected {size:,}")
        resumable = response.status == 206 or response.headers.get("Accept-Ranges") == "bytes"
        done = _receive(response, part, have, total, speed, resumable)
    if total is not None and done < total:
        kind = _BrokeOff if resumable else _Refused
        raise kind(f"stopped after {done:,} of {total:,} bytes")


def _receive(
    response: http.client.HTTPResponse,
    part: Path,
    have: int,
    total: int | None,
    speed: float,
    resumable: bool,
) -> int:
    """Appends the response's body to `part`, which already holds `have` bytes; returns the final length."""
    done, since, mark = have, time.monotonic(), have
    chunk = _read(lambda: response.read1(CHUNK) if have else response.read(2))
    if not have and not chunk.startswith(GZIP):  # checked before overwriting what an earlier source sent
        raise _Refused("sent something that is not a gzip archive")
    with _disk(part), open(part, "ab" if have else "wb") as file, bar(part.stem, total, of_bytes=True) as show:
        while chunk:
            file.write(chunk)
            done += len(chunk)
            show(done)
            if total is not None and done > total:
                raise _Refused(f"sent more than {total:,} bytes")
            if (waited := time.monotonic() - since) >= SPEED_WINDOW:
                if (done - mark) / waited < speed:
                    raise _BrokeOff(f"was too slow, {(done - mark) / waited / 1000:.0f} kB/s")
                since, mark = time.monotonic(), done
            chunk = _read(lambda: response.read1(CHUNK), resumable)
    return done


def _read(read: Callable[[], T], resumable: bool = False) -> T:
    try:
        return read()
    except (OSError, http.client.HTTPException) as error:
        raise (_BrokeOff if resumable else _Refused)(_explain(error)) from error


class _NoDowngrade(HTTPRedirectHandler):
    """A handler that follows redirects only to https, or from one loopback address to another."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        if not newurl.startswith("https:") and not (req.type == "http" and _is_safe(newurl)):
            raise _Refused(f"redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _ask(url: str, have: int) -> Any:
    """Asks for what comes after the first `have` bytes; returns the response, or None if nothing comes after them."""
    headers = {"User-Agent": "cifar-lightning", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return _opener(url).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return None
        raise _Refused(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last for an impossible host name
        raise _Refused(_explain(error)) from error


def _opener(url: str) -> OpenerDirector:
    context = ssl.create_default_context()  # reads SSL_CERT_FILE
    if "SSL_CERT_FILE" not in os.environ:
        import certifi

        context.load_verify_locations(certifi.where())  # on macOS, Python from python.org has no certificates
    proxies: dict[str, str] | None = {} if urlsplit(url).hostname in LOOPBACK else None
    return build_opener(HTTPSHandler(context=context), _NoDowngrade(), ProxyHandler(proxies))


def _explain(error: BaseException) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}: check the clock, or set SSL_CERT_FILE"
    if isinstance(error, TimeoutError):
        return f"sent nothing for {TIMEOUT:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _place(mirror: str, name: str) -> str:
    """Returns the URL or path of the archive, given that of the archive itself or of its folder."""
    if "://" not in mirror:
        path = user_path(mirror)
        check_reachable(path)
        path = path / name if is_dir(path) else path
        if not is_file(path):
            raise InputError(f"mirror {mirror}: no file {path}; use an archive, its folder, or an https address")
        return str(path)
    if not _is_safe(mirror):
        raise InputError(f"mirror {mirror} is not an https address: use one, or a local archive or its folder")
    parts = urlsplit(mirror)
    there = parts.path if parts.path.endswith((".gz", ".tgz")) else f"{parts.path.rstrip('/')}/{name}"
    return urlunsplit(parts._replace(path=quote(there, safe="/%!$&'()*+,;=:@~")))  # quoted as by a browser


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """A context in which an OSError is reported as the disk's: network errors are caught closer to the network."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free some disk space, or choose another --data.data_dir"
        ) from error
