"""A web server on localhost that behaves badly on request."""

import re
import shutil
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@contextmanager
def serve(payload, *behaviours, certificate=None):
    """Serves `payload` under any path; yields the server, with `url` and `requests`: pairs (path, Range).

    Args:
        payload: The bytes.
        behaviours: Names of `_Handler`'s methods, for the first, second, … request; the last is for all later ones.
        certificate: PEM file with a certificate and its key, to serve https.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.payload, server.behaviours, server.requests = payload, list(behaviours or ["ok"]), []
    server.location = "http://example.com/cifar-10-python.tar.gz"
    server.half_sent, server.over, server.count = threading.Event(), threading.Event(), threading.Lock()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    server.handle_error = lambda request, address: None  # tests make clients hang up on purpose
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with self.server.count:
            self.server.requests.append((self.path, self.headers["Range"]))
            index = min(len(self.server.requests), len(self.server.behaviours)) - 1
        getattr(self, self.server.behaviours[index])(self.server.payload)

    def log_message(self, *args):
        pass

    def _head(self, status, length, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _start(self, payload):
        """Sends the headers, with a Range as a good server would; returns the bytes to send."""
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])
        if start >= len(payload):
            self._head(416, 0)
            return b""
        if start:
            content_range = f"bytes {start}-{len(payload) - 1}/{len(payload)}"
            self._head(206, len(payload) - start, Accept_Ranges="bytes", Content_Range=content_range)
        else:
            self._head(200, len(payload), Accept_Ranges="bytes")
        return payload[start:]

    def ok(self, payload):
        self.wfile.write(self._start(payload))

    def drops(self, payload):
        rest = self._start(payload)
        self.wfile.write(rest[: len(rest) // 2])

    def hangs_at_half(self, payload):
        rest = self._start(payload)
        self.wfile.write(rest[: len(rest) // 2])
        self.wfile.flush()
        self.server.half_sent.set()
        self.server.over.wait()

    def crawls(self, payload):
        rest = self._start(payload)
        for i in range(0, len(rest), 100):
            if self.server.over.is_set():
                return
            self.wfile.write(rest[i : i + 100])
            time.sleep(0.02)

    def truncated(self, payload):  # on every request, and without an answer to Range
        self._head(200, len(payload))
        self.wfile.write(payload[: len(payload) // 2])

    def no_range(self, payload):
        self._head(200, len(payload))
        self.wfile.write(payload)

    def other_range(self, payload):
        self._head(206, len(payload), Content_Range=f"bytes 0-{len(payload) - 1}/{len(payload)}")
        self.wfile.write(payload)

    def stalls(self, payload):
        self.server.over.wait()

    def unavailable(self, payload):
        self._head(503, 0)

    def web_page(self, payload):
        self._head(200, 13, Content_Type="text/html; charset=utf-8")
        self.wfile.write(b"<html></html>")

    def web_page_in_disguise(self, payload):
        self._head(200, len(payload), Content_Type="application/gzip")
        self.wfile.write(b"<html>".ljust(len(payload)))

    def wrong_hash(self, payload):
        self._head(200, len(payload))
        self.wfile.write(payload[:-1] + bytes([payload[-1] ^ 1]))

    def longer(self, payload):
        self._head(200, len(payload) + 1)
        self.wfile.write(payload + b"x")

    def downgrades(self, payload):
        self._head(302, 0, Location=self.server.location)

    def moved(self, payload):
        self._head(301, 0, Location="/elsewhere/cifar-10-python.tar.gz")


def self_signed(folder):
    """Writes a self-signed certificate and its key; returns the PEM file."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl, for a certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([*command, *names], check=True, capture_output=True)
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate
