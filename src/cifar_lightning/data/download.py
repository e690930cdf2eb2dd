"""Fetching a file: several mirrors, resumed where it broke off, by one process at a time."""

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
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from cifar_lightning.data.archive import GZIP, digest
from cifar_lightning.data.bar import bar
from cifar_lightning.data.cache import HIDDEN
from cifar_lightning.data.cifar10 import Archive
from cifar_lightning.errors import InputError
from cifar_lightning.files import locked, part_of, publish, user_path

MIRROR_VARIABLE = "CIFAR_LIGHTNING_MIRROR"

TIMEOUT = 15.0  # seconds without a byte, when connecting or later
SPEED_WINDOW = 20.0  # seconds over which the speed is taken
MIN_SPEED = 200_000.0  # bytes per second; a slower source is left for the next
CRAWL_SPEED = 5_000.0  # enough the second time, when no source was quicker: it may be the user's own line
MAX_ASKS = 3  # of one source; again only where it can go on from what is there
CHUNK = 2**16
T = TypeVar("T")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Refused(Exception):
    """Why a source is left for the next."""


class _BrokeOff(_Refused):
    """The same, but it is worth asking again."""


def fetch(archive: Archive, path: Path, *, mirror: str | None, sha256: str | None, others: str = "") -> None:
    """Puts the archive at `path` unless something is there. Any number of processes may call it at once.

    Args:
        archive: What to fetch.
        path: Where it goes. What has arrived of it stands beside, with the suffix .part, also between runs. Where files
            cannot be locked each process fetches its own, from the start.
        mirror: The only place to ask: URL of the archive or of its folder, or a local file or folder.
            Default: the variable CIFAR_LIGHTNING_MIRROR, then the archive's own list.
        sha256: Digest of a user's own archive in place of the pinned one.
        others: What would do in its place, for the message.

    Raises:
        InputError: No source had it (each is named with its reason), or the disk refuses; or there can be no such
            mirror.
    """
    if path.exists():
        return
    if mirror := mirror or os.environ.get(MIRROR_VARIABLE):
        archive = replace(archive, urls=(_place(mirror, archive.name),))
    if sha256:
        archive = replace(archive, sha256=sha256, size=None)
    with _disk(path), locked(path.parent / HIDDEN) as alone:
        if path.exists():  # another process has fetched it while this one waited
            return
        part = path.with_name(f"{path.name}.part") if alone else part_of(path)
        try:
            _fetch(archive, path, part, f" (or have one of {others} there)" if others else "")
        finally:
            if not alone:  # none can go on with what may be another's
                part.unlink(missing_ok=True)


def _fetch(archive: Archive, path: Path, part: Path, other: str) -> None:
    reasons: dict[str, str] = {}
    queue = [(source, MIN_SPEED) for source in archive.urls]
    for source, speed in queue:  # grows while it is walked
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
        f"cannot fetch {archive.name}: {listed}; place the file at {path} by hand{other}, or use --data.source "
        "synthetic, which needs no download"
    )


def _obtain(source: str, archive: Archive, part: Path, speed: float) -> None:
    """Fills `part` from one source and checks it; what fails the check is deleted."""
    resumed = part.exists()
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
    _obtain(source, archive, part, speed)  # what was there before may have been the bad piece


def _copy(source: Path, part: Path) -> None:
    with ExitStack() as files:
        file = _read(lambda: files.enter_context(open(source, "rb")))
        with _disk(part), open(part, "wb") as out:
            while chunk := _read(lambda: file.read(2**20)):
                out.write(chunk)


def _transfer(url: str, archive: Archive, part: Path, speed: float) -> None:
    size = archive.size
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have >= size:
        return  # the digest tells whether it is whole
    headers = {"User-Agent": "cifar-lightning", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = _open(Request(url, headers=headers))
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return  # nothing is left to send: the digest tells whether that is true
        raise _Refused(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last for a host's name that can be none
        raise _Refused(_explain(error)) from error

    with response:
        length = response.headers.get("Content-Length", "")
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _Refused("sent another range than was asked for")
        else:
            have = 0
        total = have + int(length) if length.isdigit() else size
        if "text/html" in response.headers.get("Content-Type", ""):
            raise _Refused("sent a web page, no gzip archive")
        if size is not None and total != size:
            raise _Refused(f"has {total:,} bytes, expected {size:,}")
        resumable = response.status == 206 or response.headers.get("Accept-Ranges") == "bytes"
        done = _receive(response, part, have, total, speed, resumable)
    if total is not None and done < total:
        kind = _BrokeOff if resumable else _Refused
        raise kind(f"broke off after {done:,} of {total:,} bytes")


def _receive(
    response: http.client.HTTPResponse,
    part: Path,
    have: int,
    total: int | None,
    speed: float,
    resumable: bool,
) -> int:
    """Appends the response's body to `part`, which holds `have` bytes of it; gives its length at the end."""
    done, since, mark = have, time.monotonic(), have
    chunk = _read(lambda: response.read1(CHUNK) if have else response.read(2))
    if not have and not chunk.startswith(GZIP):  # before anything of an earlier source is overwritten
        raise _Refused("sent something that is no gzip archive")
    with _disk(part), open(part, "ab" if have else "wb") as file, bar(part.stem, total, of_bytes=True) as show:
        while chunk:
            file.write(chunk)
            done += len(chunk)
            show(done)
            if total is not None and done > total:
                raise _Refused(f"sent more than {total:,} bytes")
            if (waited := time.monotonic() - since) >= SPEED_WINDOW:
                if (done - mark) / waited < speed:
                    raise _BrokeOff(f"crawled at {(done - mark) / waited / 1000:.0f} kB/s")
                since, mark = time.monotonic(), done
            chunk = _read(lambda: response.read1(CHUNK), resumable)
    return done


def _read(read: Callable[[], T], resumable: bool = False) -> T:
    try:
        return read()
    except (OSError, http.client.HTTPException) as error:
        raise (_BrokeOff if resumable else _Refused)(_explain(error)) from error


class _NoDowngrade(HTTPRedirectHandler):
    """Follows redirects to https only, or from one loopback address to another."""

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


def _open(request: Request) -> Any:
    context = ssl.create_default_context()  # reads SSL_CERT_FILE
    if "SSL_CERT_FILE" not in os.environ:
        import certifi

        context.load_verify_locations(certifi.where())  # Python from python.org finds none on macOS
    proxies: dict[str, str] | None = {} if urlsplit(request.full_url).hostname in LOOPBACK else None
    opener = build_opener(HTTPSHandler(context=context), _NoDowngrade(), ProxyHandler(proxies))
    return opener.open(request, timeout=TIMEOUT)


def _explain(error: BaseException) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}: check the clock, or set SSL_CERT_FILE"
    if isinstance(error, TimeoutError):
        return f"sent nothing for {TIMEOUT:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _place(mirror: str, name: str) -> str:
    """The archive's URL or path, from that of the archive or of the folder that holds it."""
    if "://" not in mirror:
        path = user_path(mirror)
        path = path / name if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"mirror {mirror}: no file {path}; name an archive, its folder, or an https address")
        return str(path)
    if not _is_safe(mirror):
        raise InputError(f"mirror {mirror} is no https address: name one, or an archive on this machine, or its folder")
    parts = urlsplit(mirror)
    there = parts.path if parts.path.endswith((".gz", ".tgz")) else f"{parts.path.rstrip('/')}/{name}"
    return urlunsplit(parts._replace(path=quote(there, safe="/%!$&'()*+,;=:@~")))  # as a browser asks for it


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Blames the disk for what is the disk's fault: network errors are caught closer to the network."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; make room or name another --data.data_dir"
        ) from error
