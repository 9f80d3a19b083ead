"""Files of the hub: its own library against a server that answers as the hub does."""

import hashlib
import http.server
import random
import threading

import pytest
from huggingface_hub import constants

from histojax.common.errors import UserError
from histojax.zoo import published, verified
from histojax.zoo.hub import file_at
from histojax.zoo.published import download, weights_sha256
from histojax.zoo.record import WeightFile

CONTENT = random.Random(0).randbytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = WeightFile("model.bin", hub="owner/name", sha256=SHA256)
ERRORS = {  # repository: status and code, as the hub's
    "gated": (403, "GatedRepo"),
    "absent": (401, "RepoNotFound"),
    "odd": (403, ""),
    "empty": (404, "EntryNotFound"),
}


class Handler(http.server.BaseHTTPRequestHandler):
    """The file `model.bin` of any repository; those of ERRORS answer with an error."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.command, self.path, asked, self.headers.get("Authorization")))
        repository = self.path.split("/resolve/")[0].rpartition("/")[2]
        status, code = ERRORS.get(repository, (200, ""))
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(status if status != 200 or not asked else 206)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{server.etag}"')
        piece = CONTENT[start:] if status == 200 else b""
        self.send_header("Content-Length", str(len(piece)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if body:
            self.wfile.write(piece[: server.cuts.pop(0)] if server.cuts else piece)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The server as the hub of this process, with caches of its own and no account."""
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.requests, made.cuts, made.etag = [], [], SHA256
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{made.server_address[1]}")
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield made
    made.shutdown()
    made.server_close()


def test_a_file_is_fetched_once_into_the_cache_of_the_hub(server, tmp_path, monkeypatch):
    path = download(FILE)
    assert path.read_bytes() == CONTENT and path.is_relative_to(tmp_path / "hub" / "models--owner--name")
    asked = len(server.requests)
    assert [request[0] for request in server.requests] == ["HEAD", "GET"]
    monkeypatch.setattr("histojax.zoo.hub.file_sha256", lambda path: pytest.fail("hashed again"))
    assert download(FILE, offline=True) == download(FILE) == path and len(server.requests) == asked
    assert weights_sha256(path) == SHA256 and verified.noted_sha256(path) == SHA256
    assert not list((tmp_path / "hub").rglob("*.sha256.json"))  # nothing of ours in folders of others


def test_datasets_and_folders(server, tmp_path):
    path = download(WeightFile("a/b/model.bin", hub="datasets/owner/name", sha256=SHA256))
    assert path.read_bytes() == CONTENT and "datasets--owner--name" in str(path)
    assert server.requests[0][1] == "/datasets/owner/name/resolve/main/a/b/model.bin"


def test_a_file_in_our_own_cache_comes_first(server, tmp_path):
    ours = tmp_path / "ours" / FILE.cached
    ours.parent.mkdir(parents=True)
    ours.write_bytes(CONTENT)
    assert download(FILE) == ours and not server.requests
    ours.write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(UserError, match=rf"model\.bin: SHA-256 is .*, expected {SHA256}; the file is damaged"):
        download(FILE)


def test_an_interrupted_transfer_is_resumed(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # less is lost with a connection
    server.cuts = [70_000]
    assert download(FILE).read_bytes() == CONTENT
    assert [request[2] for request in server.requests if request[0] == "GET"] == [None, "bytes=70000-"]


def test_another_file_than_the_known_one_is_refused(server, tmp_path):
    with pytest.raises(UserError, match=rf"blobs/{SHA256}: SHA-256 is {SHA256}, expected 0000.* another version now"):
        download(WeightFile("model.bin", hub="owner/name", sha256="0" * 64))
    assert list((tmp_path / "hub").rglob("model.bin"))  # it may be what others want


def test_a_file_without_a_known_hash_has_the_one_that_the_hub_states(server, capsys, monkeypatch):
    checked = []
    monkeypatch.setattr(published, "check_whole", lambda path, name: checked.append(name))
    path = download(WeightFile("model.bin", hub="owner/name"))
    assert checked == ["model.bin"] and f"has the SHA-256 that the hub states; computed {SHA256}" in str(
        capsys.readouterr().err
    )
    download(WeightFile("model.bin", hub="owner/name"))
    assert len(checked) == 1
    path.resolve().write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"expected {SHA256}; the hub may have another version now"):
        download(WeightFile("model.bin", hub="owner/name"))


def test_what_is_not_whole_is_refused(server):
    server.etag = "abc"  # of a small file the hub states no SHA-256
    with pytest.raises(UserError, match=r"abc: neither a PyTorch file nor safetensors .*download .* by hand and put"):
        download(WeightFile("model.bin", hub="owner/name"))


@pytest.mark.parametrize(
    "repository, message",
    [
        ("gated", r"only for accounts that are known: accept the terms on https://huggingface\.co/owner/gated"),
        ("absent", r"no such repository, or a private one: see https://huggingface\.co/owner/absent; ask for access"),
        ("odd", r"HTTP 403; accept the terms on https://huggingface\.co/owner/odd"),
        ("empty", r"the repository has no such file \(any more\): see https://huggingface\.co/owner/empty"),
    ],
)
def test_refusals_name_the_page_and_the_way_by_hand(repository, message, server, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        download(WeightFile("model.bin", hub=f"owner/{repository}"))
    said = str(caught.value)
    assert "\n" not in said and f"put it at {tmp_path / 'ours'}" in said and "the path of your copy" in said


def test_what_to_do_about_a_login(server, monkeypatch):
    """Over http no token is sent; over https it is the library that knows where to."""
    from histojax.zoo import hub

    gated = WeightFile("model.bin", hub="owner/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(UserError, match="a token is not sent in the clear"):
        download(gated)
    assert all(request[3] is None for request in server.requests)
    monkeypatch.setattr(hub, "endpoint", lambda: "https://huggingface.co")
    assert "the token of this account does not do: accept" in hub._log_in(gated, "accept the terms on")
    monkeypatch.delenv("HF_TOKEN")
    assert hub._log_in(gated, "accept").endswith("then run `hf auth login` or set HF_TOKEN, and run again")


def test_offline(server, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"^offline: download http.* on another machine and put it at"):
        download(FILE, offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^offline \(HF_HUB_OFFLINE is set\): download http"):
        download(FILE)
    assert not server.requests


def test_no_connection(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 cannot be reached .* check the connection"):
        download(FILE)


def test_links_of_the_hub(monkeypatch):
    assert file_at("https://huggingface.co/a/b/blob/main/c.bin?x=1") == WeightFile("c.bin", hub="a/b")
    assert file_at("https://huggingface.co/a/b/resolve/other/c.bin") is None
    assert file_at("https://x.example/a/b/resolve/main/c.bin") is None
    monkeypatch.setenv("HF_ENDPOINT", "https://x.example/")
    assert file_at("https://x.example/a/b/resolve/main/c.bin") == WeightFile("c.bin", hub="a/b")
