"""Downloads of archives that break off: what is kept, and how they go on. The server stands on loopback."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from biofuse.core.errors import DataError
from biofuse.core.hashing import digest_file
from biofuse.data.medmnist import medmnist_catalogue, medmnist_file, medmnist_path

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


class Server:
    """Serves one file; ``breaks_after`` cuts the first answer off, ``ranges`` says whether it knows ranges."""

    def __init__(self, content):
        self.content, self.breaks_after, self.ranges, self.asked = content, None, True, []

    def answer(self, request):
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(asked[6:].partition("-")[0]) if asked and self.ranges else 0
        if start >= len(self.content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(self.content) - start))
        request.end_headers()
        stop, self.breaks_after = self.breaks_after, None
        request.wfile.write(self.content[start:stop])


@pytest.fixture
def server(tmp_path, monkeypatch):
    np.savez(tmp_path / "mirror.npz", train_images=np.arange(2 * 64 * 64, dtype=np.uint8).reshape(2, 64, 64))
    there = Server((tmp_path / "mirror.npz").read_bytes())
    pattern, catalogue = medmnist_catalogue()
    checksum = {64: digest_file(tmp_path / "mirror.npz", algorithm="md5")}
    changed = {**catalogue, "breastmnist": catalogue["breastmnist"].model_copy(update={"md5": checksum})}
    monkeypatch.setattr("biofuse.data.medmnist.medmnist_catalogue", lambda: (pattern, changed))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            there.answer(self)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there.url = f"http://127.0.0.1:{httpd.server_port}/{{file}}"
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield there
    httpd.shutdown()
    httpd.server_close()


def fetch(server, tmp_path, **options):
    return medmnist_file("breastmnist", 64, root=tmp_path / "root", url=server.url, **options)


def test_a_download_reports_how_far_it_is(server, tmp_path):
    said = []
    path = fetch(server, tmp_path, report=lambda have, total: said.append((have, total)))
    assert path == medmnist_path("breastmnist", 64, root=tmp_path / "root")
    assert path.read_bytes() == server.content
    assert said[-1] == (len(server.content), len(server.content))
    assert [entry.name for entry in path.parent.iterdir()] == ["breastmnist_64.npz"]


def test_a_lost_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.breaks_after = 1000
    with pytest.raises(DataError, match="connection was lost") as caught:
        fetch(server, tmp_path)
    assert "goes on from there" in caught.value.remedy
    assert not medmnist_path("breastmnist", 64, root=tmp_path / "root").exists()
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.breaks_after, server.ranges = 1000, False
    with pytest.raises(DataError):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == server.content


def test_a_part_that_was_whole_already_is_taken(server, tmp_path):
    part = tmp_path / "root" / ".breastmnist_64.npz.part"
    part.parent.mkdir()
    part.write_bytes(server.content)
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert not part.exists()


def test_an_altered_part_is_thrown_away(server, tmp_path):
    part = tmp_path / "root" / ".breastmnist_64.npz.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="damaged or another file"):
        fetch(server, tmp_path)
    assert list(part.parent.iterdir()) == []
    assert fetch(server, tmp_path).read_bytes() == server.content
