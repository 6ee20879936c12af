"""A web server on this machine that serves one file, well or badly, and a proxy in front of it."""

import contextlib
import re
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOLD = 30  # seconds a stalling server keeps silent, unless the client leaves or the test ends


class Server(ThreadingHTTPServer):
    """Answers every GET with the next of `answers`, the last one again and again.

    content, etag, last_modified: the file and what is said of it. requests: (path, headers) so far.
    """

    daemon_threads = True

    def __init__(self, content: bytes = b""):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.etag, self.last_modified = content, '"1"', None
        self.answers, self.requests, self.closing = [serve], [], threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        answer(self)
        self.close_connection = True

    def head(self, status: int, **headers):
        """Status line and headers; underscores in names become hyphens, None leaves one out."""
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, content: bytes):
        self.wfile.write(content)
        self.wfile.flush()

    def hold(self):
        self.server.closing.wait(HOLD)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def running(server: Server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


# Answers


def serve(request, *, length=None, cut=None, ranges=True, if_range=True, announce=True):
    """The file, or the part asked for, as RFC 9110 has it.

    length: the Content-Length to claim. cut: send so many bytes only. ranges: whether Range
    is understood; if_range: whether If-Range is. announce: whether to say the length.
    """
    server = request.server
    content, start = server.content, 0
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    condition = request.headers.get("If-Range")
    same = condition in (server.etag, server.last_modified) or not if_range
    if wanted and ranges and same:
        start = int(wanted[1])
        if start >= len(content):
            return request.head(416, Content_Range=f"bytes */{len(content)}", Content_Length="0")
    sent = content[start:]
    request.head(
        206 if start else 200,
        Content_Length=str(len(sent) if length is None else length) if announce else None,
        Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}" if start else None,
        ETag=server.etag,
        Last_Modified=server.last_modified,
    )
    request.body(sent[:cut])


def stall(request):
    """A thousand bytes, then silence."""
    serve(request, cut=1000)
    request.hold()


def stall_at_once(request):
    request.hold()


def drip(request):
    """A byte every 50 ms: never silent, never done."""
    serve(request, cut=0)
    for byte in request.server.content:
        request.body(bytes([byte]))
        if request.server.closing.wait(0.05):
            return


def truncate(request):
    serve(request, cut=len(request.server.content) // 2)


def ignore_ranges(request):
    serve(request, ranges=False)


def status(code: int):
    return lambda request: request.head(code, Content_Length="0")


def web_page(request):
    page = b"\xef\xbb\xbf<!-- 2026 --><html><body>Log in</body></html>"
    request.head(200, Content_Type="text/html; charset=utf-8", Content_Length=str(len(page)))
    request.body(page)


def redirect(to: str, **headers):
    return lambda request: request.head(302, Location=to, Content_Length="0", **headers)


def forward(request):
    """What a proxy does with GET http://host/path: fetch it and pass it on."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request.path) as answer:
        content = answer.read()
    request.head(200, Content_Length=str(len(content)))
    request.body(content)


def slowly(request):
    """The file in ten pieces over two seconds, so that others can ask meanwhile."""
    serve(request, cut=0)
    content = request.server.content
    step = len(content) // 10 + 1
    for start in range(0, len(content), step):
        request.body(content[start : start + step])
        time.sleep(0.2)
