"""Downloads: bad servers, resumed parts, mirrors, full disks, and several processes at once."""

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import socket
import subprocess
from dataclasses import replace

import jobs
import pytest
from archives import write_archive
from servers import self_signed, serve

from cifar_lightning.data import download
from cifar_lightning.data.cifar10 import ARCHIVES
from cifar_lightning.data.sources import Source
from cifar_lightning.errors import InputError

NAME = "cifar-10-python.tar.gz"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.delenv(download.MIRROR_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / NAME
    write_archive(path)
    return path.read_bytes()


def archive_at(payload, *urls):
    """Returns a description of our own archive, whose size and digest are checked like the official one's."""
    digest = hashlib.sha256(payload).hexdigest()
    return replace(ARCHIVES["cifar10"], urls=urls, sha256=digest, size=len(payload))


def fetch(payload, folder, *urls, mirror=None):
    path = folder / NAME
    download.fetch(archive_at(payload, *urls), path, mirror=mirror, sha256=None)
    assert path.read_bytes() == payload
    assert sorted(entry.name for entry in folder.iterdir()) == [".cifar_lightning", NAME]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("unavailable", "HTTP 503 Service Unavailable"),
        ("web_page", "sent a web page, not a gzip archive"),
        ("web_page_in_disguise", "sent something that is not a gzip archive"),
        ("truncated", "stopped after"),
        ("stalls", "sent nothing for 0.5 s"),
        ("hangs_at_half", "sent nothing for 0.5 s"),
        ("wrong_hash", "has SHA-256"),
        ("longer", "has 4"),
        ("downgrades", "redirects to http://example.com/cifar-10-python.tar.gz, which is not https"),
    ],
)
def test_after_a_bad_source_the_next_is_used(payload, tmp_path, behaviour, reason):
    with serve(payload, behaviour) as bad, serve(payload) as good:
        fetch(payload, tmp_path, bad.url, good.url)
        assert len(bad.requests) == 1
        assert len(good.requests) == 1
        alone = tmp_path / "alone"
        with pytest.raises(InputError) as error:
            fetch(payload, alone, bad.url)
    message = str(error.value)
    assert f"cannot download {NAME}: {bad.url} ({reason}" in message
    assert f"put the file at {alone / NAME} yourself" in message
    assert "--data.source synthetic" in message
    assert "\n" not in message
    assert not (alone / NAME).exists()


def test_the_error_lists_the_reason_for_each_source(payload, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
    with serve(payload, "unavailable") as bad, pytest.raises(InputError) as error:
        fetch(payload, tmp_path, refusing, bad.url)
    assert f"{refusing} (Connection refused); {bad.url} (HTTP 503 Service Unavailable);" in str(error.value)


def test_a_broken_transfer_resumes_at_the_next_source(payload, tmp_path):
    with serve(payload, "drops") as first, serve(payload) as second:
        fetch(payload, tmp_path, first.url, second.url)
    assert second.requests[0][1] == f"bytes={len(payload) // 2}-"


def test_a_broken_transfer_resumes_at_the_only_source(payload, tmp_path):
    with serve(payload, "drops", "ok") as server:
        fetch(payload, tmp_path, server.url)
    assert [r for _, r in server.requests] == [None, f"bytes={len(payload) // 2}-"]


@pytest.mark.parametrize("behaviour", ["no_range", "ok"])
def test_a_part_from_an_earlier_run_is_resumed_or_replaced(payload, tmp_path, behaviour):
    (tmp_path / f"{NAME}.part").write_bytes(payload[:1000])
    with serve(payload, behaviour) as server:
        fetch(payload, tmp_path, server.url)
    assert [r for _, r in server.requests] == ["bytes=1000-"]


def test_a_complete_part_needs_no_server(payload, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(payload)
    fetch(payload, tmp_path, "https://127.0.0.1:1/")


@pytest.mark.parametrize("bad", [b"\x1f\x8bnonsense", b"x" * 10**6], ids=["short", "long"])
def test_a_bad_part_is_downloaded_again_from_the_start(payload, tmp_path, bad):
    (tmp_path / f"{NAME}.part").write_bytes(bad)
    with serve(payload) as server:
        fetch(payload, tmp_path, server.url)
    assert server.requests[-1][1] is None


def test_a_part_survives_a_bad_source(payload, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(payload[:1000])
    with serve(payload, "web_page_in_disguise") as bad, serve(payload, "other_range") as odd:
        with serve(payload) as good:
            fetch(payload, tmp_path, bad.url, odd.url, good.url)
        assert good.requests[0][1] == "bytes=1000-"


def test_a_complete_part_of_unknown_size_is_used(payload, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(payload)
    facts = replace(archive_at(payload), sha256="0" * 64, size=1)
    with serve(payload) as server:  # answers 416: there are no more bytes
        digest = hashlib.sha256(payload).hexdigest()
        download.fetch(facts, tmp_path / NAME, mirror=server.url, sha256=digest)
    assert (tmp_path / NAME).read_bytes() == payload


def test_a_slow_source_is_left_but_resumed_if_no_other_works(payload, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SPEED_WINDOW", 0.2)
    with serve(payload, "crawls", "ok") as slow, serve(payload, "unavailable") as bad:
        fetch(payload, tmp_path, slow.url, bad.url)
    assert slow.requests[0][1] is None
    assert slow.requests[1][1].startswith("bytes=")


def test_a_self_signed_certificate_is_refused_until_trusted(payload, tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    folder = tmp_path / "data"
    with serve(payload, certificate=certificate) as server:
        with pytest.raises(InputError, match="certificate is not trusted, self-signed certificate: check the"):
            fetch(payload, folder, server.url)
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # as the message recommends
        fetch(payload, folder, server.url)


def test_https_is_never_downgraded_to_loopback(payload, tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    folder = tmp_path / "data"
    with serve(payload, "downgrades", certificate=certificate) as server:
        server.location = "http://127.0.0.1:1/"
        with pytest.raises(InputError, match=r"redirects to http://127\.0\.0\.1:1/, which is not https"):
            fetch(payload, folder, server.url)


@pytest.mark.parametrize("suffix", ["", "/", "/some/where", f"/some/where/{NAME}?download=1"])
def test_mirror_is_the_address_of_an_archive_or_its_folder(payload, tmp_path, suffix):
    with serve(payload, "moved", "ok") as server:
        fetch(payload, tmp_path, "https://127.0.0.1:1/", mirror=server.url + suffix)
    assert server.requests[0][0] == (suffix if "?" in suffix else f"{suffix.rstrip('/')}/{NAME}")
    assert server.requests[1][0] == f"/elsewhere/{NAME}"


def test_mirror_is_percent_encoded_as_by_a_browser(payload, tmp_path):
    with serve(payload) as server:
        fetch(payload, tmp_path, mirror=f"{server.url}/données/a b%20c")
    assert server.requests == [(f"/donn%C3%A9es/a%20b%20c/{NAME}", None)]


@pytest.mark.parametrize("of_folder", [True, False])
def test_mirror_may_be_a_local_archive_or_folder(payload, tmp_path, monkeypatch, of_folder):
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / NAME).write_bytes(payload)
    monkeypatch.setenv(download.MIRROR_VARIABLE, str(stage if of_folder else stage / NAME))
    fetch(payload, tmp_path / "data", "https://127.0.0.1:1/")


def test_bad_mirrors_are_refused(payload, tmp_path):
    (tmp_path / "bad.tar.gz").write_bytes(payload[:-1])
    for mirror, message in [
        ("http://example.com/x", "mirror http://example.com/x is not an https address: use one"),
        ("ftp://127.0.0.1/x", "mirror ftp://127.0.0.1/x is not an https address"),
        ("https://[x/", "mirror https://[x/ is not an https address"),
        ("https://a..b/", "'idna' codec"),
        ("~nobody-of-this-name/x", "mirror ~nobody-of-this-name/x: no file ~nobody-of-this-name/x"),
        (str(tmp_path / "none"), f"mirror {tmp_path / 'none'}: no file {tmp_path / 'none'}"),
        (str(tmp_path / "bad.tar.gz"), f"{tmp_path / 'bad.tar.gz'} (has SHA-256 "),
    ]:
        with pytest.raises(InputError) as error:
            fetch(payload, tmp_path / "data", mirror=mirror)
        assert message in str(error.value)
        assert not (tmp_path / "data" / NAME).exists()


def test_errors_in_writing_name_the_disk_not_the_server(payload, tmp_path):
    (tmp_path / "file").touch()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serve(payload) as server:
        with pytest.raises(
            InputError, match=r"cannot write .*file/data.*: Not a directory; free some disk space, or choose"
        ):
            fetch(payload, tmp_path / "file" / "data", server.url)
        assert server.requests == []
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(
                InputError, match=r"cannot write .*\.part: File too large; free some disk space, or choose"
            ):
                fetch(payload, tmp_path / "data", server.url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        fetch(payload, tmp_path / "data", server.url)


def prepared(folder, url, digest, locks=True):
    """Prepares and loads the images as a process of a run does, on a file system with locks or without."""
    if not locks:
        fcntl.fcntl = fcntl.flock = no_locks
    Source("cifar10", folder, mirror=url, sha256=digest).prepare()
    assert len(Source("cifar10", folder, sha256=digest).load("train").labels) == 100


def no_locks(*args):
    raise OSError(errno.ENOLCK, "No locks available")


def processes(count, *arguments):
    """Starts `count` processes that run `prepared`, and returns them."""
    started = [jobs.context.Process(target=prepared, args=arguments, daemon=True) for _ in range(count)]
    for process in started:
        process.start()
    return started


def eight(*arguments):
    started = processes(8, *arguments)
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * 8


def test_eight_processes_at_once_download_once(payload, tmp_path):
    digest = hashlib.sha256(payload).hexdigest()
    with serve(payload) as server:
        eight(tmp_path, server.url, digest)
    assert [r for _, r in server.requests] == [None]


def test_without_locks_each_process_downloads_its_own_file(payload, tmp_path):
    """Without locks, as on some network file systems, no process writes into a part that another has begun."""
    digest = hashlib.sha256(payload).hexdigest()
    (tmp_path / f"{NAME}.part").write_bytes(payload[:100])  # which another process may be writing
    with serve(payload) as server:
        eight(tmp_path, server.url, digest, False)
    assert {r for _, r in server.requests} == {None}
    assert (tmp_path / NAME).read_bytes() == payload
    assert (tmp_path / f"{NAME}.part").read_bytes() == payload[:100]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cifar_lightning", NAME, f"{NAME}.part"]


def test_a_waiting_process_takes_over_from_a_killed_one(payload, tmp_path):
    digest = hashlib.sha256(payload).hexdigest()
    with serve(payload, "hangs_at_half", "ok") as server:
        (holder,) = processes(1, tmp_path, server.url, digest)
        assert server.half_sent.wait(60)
        (second,) = processes(1, tmp_path, server.url, digest)
        while not (tmp_path / f"{NAME}.part").exists():
            assert holder.is_alive()
        holder.kill()
        holder.join()
        second.join(60)
        assert second.exitcode == 0
        assert len(server.requests) == 2
    assert (tmp_path / NAME).read_bytes() == payload


def test_official_urls_are_https():
    for archive in ARCHIVES.values():
        assert all(url.startswith("https://") and archive.name in url for url in archive.urls)
        assert len(archive.sha256) == 64


@pytest.mark.skipif(not os.path.isdir("/dev/shm") or os.getuid() != 0, reason="mounts a small tmpfs")
def test_a_full_disk_is_reported_and_leaves_no_archive(payload, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small]).returncode:
        pytest.skip("may not mount")
    try:
        with serve(payload) as server, pytest.raises(InputError, match="No space left on device; free some disk space"):
            fetch(payload, small / "data", server.url)
        assert not (small / "data" / NAME).exists()
    finally:
        shutil.rmtree(small / "data", ignore_errors=True)
        subprocess.run(["umount", small], check=True)
