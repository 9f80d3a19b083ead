import hashlib
import http.server
import random
import re
import threading

import pytest

from histojax.common.errors import UserError
from histojax.common.files import file_sha256
from histojax.zoo import fetch as fetching
from histojax.zoo.fetch import fetch_url
from histojax.zoo.verified import known_sha256

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; /plain knows no ranges, /gated wants an account; addresses in `moves` send on to others."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked, self.headers.get("If-Range")))
        if self.path in server.moves:
            self.send_response(302)
            self.send_header("Location", server.moves[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if self.path == "/gated.pth":
            return self.send_error(403)
        if self.path == "/missing.pth":
            return self.send_error(404)
        if self.path == "/busy.pth" and len(server.requests) < 3:
            return self.send_error(503)
        body = b"<html>log in</html>" if self.path == "/page.pth" else CONTENT
        tag = server.tags.pop(0) if server.tags else '"v1"'
        start = int(re.match(r"bytes=(\d+)-", asked).group(1)) if asked else 0
        resumed = bool(asked) and self.path != "/plain.pth" and self.headers.get("If-Range") in (None, tag)
        start = start if resumed else 0
        self.send_response(206 if resumed else 200)
        if resumed:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        piece = body[start:]
        if server.cuts:
            piece = piece[: server.cuts.pop(0)]
        self.wfile.write(piece)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetching, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(fetching, "CHUNK", 1 << 14)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.requests, made.cuts, made.tags, made.moves = [], [], [], {}
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def address(server, path="/a.pth"):
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def get(server, cache, path="/a.pth", sha256=SHA256, progress=False, **options):
    return fetch_url(address(server, path), cache / path[1:], sha256=sha256, progress=progress, **options)


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_download_once(server, tmp_path):
    path = get(server, tmp_path / "cache")
    assert path.read_bytes() == CONTENT and path == tmp_path / "cache" / "a.pth"
    assert get(server, tmp_path / "cache") == path and len(server.requests) == 1
    assert leftovers(tmp_path / "cache") == ["a.pth", "a.pth.sha256.json"]


def test_interrupted_transfers_resume_within_one_call(server, tmp_path):
    server.cuts = [100_000, 50_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    ranges = [asked for _, asked, _ in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1][2] == '"v1"'


def test_interrupted_transfers_resume_in_the_next_call(server, tmp_path):
    server.cuts = [1000] * fetching.ATTEMPTS
    with pytest.raises(UserError, match="run again to resume"):
        get(server, tmp_path)
    assert not (tmp_path / "a.pth").exists() and (tmp_path / "a.pth.part").stat().st_size == 4000
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=4000-"


def test_a_file_that_changed_meanwhile_starts_anew(server, tmp_path):
    server.cuts, server.tags = [1000], ['"v0"', '"v1"']
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges(server, tmp_path):
    server.cuts = [1000]
    assert get(server, tmp_path, "/plain.pth").read_bytes() == CONTENT


def test_a_complete_part_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "a.pth.part").write_bytes(CONTENT)
    assert get(server, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT
    assert server.requests == []


def test_busy_servers_are_asked_again(server, tmp_path):
    assert get(server, tmp_path, "/busy.pth").read_bytes() == CONTENT


def test_wrong_hash_is_removed_and_said(server, tmp_path):
    with pytest.raises(UserError, match=f"SHA-256 is {SHA256}, expected {'0' * 64}"):
        get(server, tmp_path, sha256="0" * 64)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_web_page_instead_of_weights(server, tmp_path, sha256):
    with pytest.raises(UserError, match=r"web page instead of weights.* put it at .*page\.pth"):
        get(server, tmp_path, "/page.pth", sha256=sha256)
    assert leftovers(tmp_path) == []


def test_not_found_gives_the_way_by_hand(server, tmp_path):
    with pytest.raises(UserError, match=r"HTTP 404 .* by hand and put it at .*missing\.pth"):
        get(server, tmp_path, "/missing.pth")
    assert len(server.requests) == 1


def test_unknown_hash_is_called_unverified_and_computed(server, tmp_path, capsys):
    get(server, tmp_path, sha256=None)
    assert f"unverified (no published SHA-256 is known); computed {SHA256}" in capsys.readouterr().err


def incomplete(path, name):
    """As containers.check_whole."""
    if path.read_bytes() != CONTENT or not name.startswith("a"):
        raise UserError(f"{path}: truncated zip; delete it and download it again")


def test_a_file_that_is_not_whole_is_not_kept(server, tmp_path):
    assert get(server, tmp_path, sha256=None, check=incomplete).exists()
    with pytest.raises(UserError, match=r"not a whole weight file: truncated zip; it was removed, run again; or") as e:
        get(server, tmp_path, "/b.pth", sha256=None, check=incomplete)
    assert "b.pth.part" not in str(e.value)
    assert leftovers(tmp_path) == ["a.pth", "a.pth.sha256.json"]


def test_a_broken_file_put_there_by_hand_is_named(server, tmp_path):
    (tmp_path / "a.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError) as error:
        get(server, tmp_path, sha256=None, check=incomplete)
    assert str(error.value) == f"{tmp_path / 'a.pth'}: truncated zip; delete it and run again"
    assert server.requests == [] and leftovers(tmp_path) == ["a.pth"]


def test_progress_goes_to_stderr(server, tmp_path, capsys):
    get(server, tmp_path, progress=True)
    captured = capsys.readouterr()
    assert "a.pth" in captured.err and "100%" in captured.err and captured.out == ""


def test_offline_says_what_to_put_where(server, tmp_path):
    with pytest.raises(UserError) as caught:
        get(server, tmp_path, offline=True)
    message = str(caught.value)
    assert address(server) in message and str(tmp_path / "a.pth") in message and "path of your copy" in message
    assert leftovers(tmp_path) == [] and server.requests == []


def test_gated_files_name_the_page_of_the_terms(server, tmp_path):
    with pytest.raises(UserError) as caught:
        get(server, tmp_path, "/gated.pth", page="https://x.example/model")
    message = str(caught.value)
    assert "HTTP 403" in message and "accept the terms on https://x.example/model" in message
    assert "path of your copy" in message and len(server.requests) == 1 and leftovers(tmp_path) == []


def test_a_link_may_lead_elsewhere(server, tmp_path):
    server.moves["/here.pth"] = "/a.pth"
    assert get(server, tmp_path, "/here.pth").read_bytes() == CONTENT


def test_files_without_an_address(tmp_path):
    with pytest.raises(
        UserError, match=r"a\.pth cannot be downloaded by a program: get a\.pth from https://x\.example"
    ):
        fetch_url("", tmp_path / "a.pth", page="https://x.example")
    (tmp_path / "a.pth").write_bytes(CONTENT)
    assert fetch_url("", tmp_path / "a.pth", sha256=SHA256) == tmp_path / "a.pth"


def test_folders_in_the_cache(server, tmp_path):
    path = fetch_url(address(server), tmp_path / "owner--name" / "model.bin", progress=False)
    assert path == tmp_path / "owner--name" / "model.bin" and path.read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_checked_once(server, tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(CONTENT)
    assert get(server, tmp_path, offline=True) == tmp_path / "a.pth"
    monkeypatch.setattr("histojax.zoo.verified.file_sha256", lambda path: pytest.fail("hashed again"))
    get(server, tmp_path, offline=True)
    assert known_sha256(tmp_path / "a.pth") == SHA256


def test_the_hash_of_a_file_that_changed_is_computed_anew(server, tmp_path):
    path = get(server, tmp_path)
    path.write_bytes(b"other")
    assert known_sha256(path) == file_sha256(path) == hashlib.sha256(b"other").hexdigest()


def test_a_damaged_file_in_the_cache_is_refused(server, tmp_path):
    get(server, tmp_path)
    (tmp_path / "a.pth").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match="delete it and run again"):
        get(server, tmp_path)


def test_file_urls(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    found = fetch_url(path.as_uri(), tmp_path / "cache" / "mine.pth", progress=False)
    assert found == tmp_path / "cache" / "mine.pth" and found.read_bytes() == CONTENT
    with pytest.raises(UserError, match="no such file"):
        fetch_url((tmp_path / "absent.pth").as_uri(), tmp_path / "cache" / "absent.pth", progress=False)
