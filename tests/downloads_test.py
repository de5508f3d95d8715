"""checkpoints/downloads.py against a server on loopback that breaks off, redirects, answers with a
web page, the wrong file or nothing."""

import hashlib
import http.server
import sys
import threading

import numpy as np
import pytest

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")

from huggingface_hub import constants, file_download  # noqa: E402

import tf_robust_transfer as rt  # noqa: E402
from tf_robust_transfer.checkpoints.downloads import local_file  # noqa: E402
from tf_robust_transfer.checkpoints.specs import source_files  # noqa: E402
from tf_robust_transfer.errors import InputError  # noqa: E402

CONTENT = np.random.default_rng(0).bytes(50_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "a" * 40


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        if not self.path.startswith("/api/"):  # the library tells the hub who asks
            self.server.requests.append((self.path, self.headers.get("Range")))
        self.answer(with_body=True)

    def answer(self, with_body):
        server, path = self.server, self.path
        if path.startswith("/redirect/"):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/file/x.keras")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.startswith("/nothing/"):
            self.close_connection = True
            return
        if path.startswith("/missing/") or (path.startswith("/org/") and "absent" in path):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = server.content
        if path.startswith("/page/"):
            content = b"<!DOCTYPE html><html>Please sign in</html>"
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not with_body:
            return
        body = content[start:]
        if path.startswith("/breaks/") and len(server.requests) <= server.breaks:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.requests, server.breaks = CONTENT, [], 0
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("TF_ROBUST_TRANSFER_CACHE", str(tmp_path / "cache"))
    # The library waits a second before each of five tries.
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is written at a time
    yield server
    server.shutdown()
    server.server_close()


def error_of(text):
    with pytest.raises(InputError) as caught:
        local_file(text)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def cached(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


class TestWeb:
    def test_fetched_once_and_then_without_a_network(self, server):
        address = f"{server.address}/file/x.pt#sha256={SHA256.upper()}"
        path = local_file(address)
        assert path.name == "x.pt" and path.read_bytes() == CONTENT
        server.shutdown()
        server.server_close()
        assert local_file(address) == path
        assert len(server.requests) == 1

    def test_a_redirect_is_followed(self, server):
        path = local_file(f"{server.address}/redirect/x.pt#sha256={SHA256}")
        assert path.read_bytes() == CONTENT

    def test_a_connection_that_breaks_off_is_gone_on_with(self, server):
        server.breaks = 3
        assert local_file(f"{server.address}/breaks/x.pt").read_bytes() == CONTENT
        assert [requested for _, requested in server.requests] == [
            None,
            "bytes=25000-",
            "bytes=37000-",
            "bytes=43000-",
        ]

    @pytest.mark.parametrize("known", [True, False])
    def test_the_next_command_goes_on_where_the_sum_is_known(self, known, server, monkeypatch):
        server.breaks = 1
        address = f"{server.address}/breaks/x.pt" + known * f"#sha256={SHA256}"

        def give_up(*arguments, **options):
            raise ConnectionError("gone")

        with monkeypatch.context() as patch:
            patch.setattr(file_download.time, "sleep", give_up)
            assert "the same command goes on" in error_of(address)
        assert local_file(address).read_bytes() == CONTENT
        assert [requested for _, requested in server.requests] == [
            None,
            "bytes=25000-" if known else None,
        ]

    def test_a_web_page(self, server, tmp_path):
        message = error_of(f"{server.address}/page/x.pt")
        assert message.endswith("answers with a web page, no file; give the file's own address")
        assert not cached(tmp_path)

    def test_another_file(self, server, tmp_path):
        message = error_of(f"{server.address}/file/x.pt#sha256={'0' * 64}")
        assert message.endswith(
            f"is not the expected file: its SHA-256 is {SHA256}, expected {'0' * 64}"
        )
        assert not cached(tmp_path)

    def test_a_kept_file_that_was_changed(self, server):
        address = f"{server.address}/file/x.pt#sha256={SHA256}"
        local_file(address).write_bytes(b"changed")
        assert "is not the expected file" in error_of(address)

    @pytest.mark.parametrize("path", ["nothing/x.pt", "missing/x.pt"])
    def test_no_answer_says_where_to_put_the_file(self, path, server, tmp_path):
        address = f"{server.address}/{path}"
        message = error_of(address)
        place = message.rpartition("fetch it by hand and put it at ")[2].strip("'")
        with open(place, "wb") as file:
            file.write(CONTENT)
        assert local_file(address).read_bytes() == CONTENT

    def test_no_server(self, server):
        server.shutdown()
        server.server_close()
        assert "cannot be fetched" in error_of(f"{server.address}/file/x.pt")

    @pytest.mark.parametrize(
        ("address", "says"),
        [
            ("https://example.org/", "names no file"),
            ("https:///x.pt", "names no file"),
            ("http://example.org/x.pt", "http:// needs #sha256="),
            ("https://example.org/x.pt#sha256=12", "64 hexadecimal digits"),
            ("https://example.org/x.pt#main", "64 hexadecimal digits"),
            ("hf://org/x.pt", "expected hf://ORG/REPO/FILE"),
            ("hf://org", "expected hf://ORG/REPO/FILE"),
        ],
    )
    def test_other_addresses_ask_no_server(self, address, says, server):
        assert says in error_of(address)

    def test_without_the_library_the_extra_is_named(self, server, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        message = error_of(f"{server.address}/file/x.pt")
        assert message.endswith("pip install 'tf_robust_transfer[hub]'")


class TestHub:
    @pytest.fixture(autouse=True)
    def hub(self, server, monkeypatch, tmp_path):
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        download = huggingface_hub.hf_hub_download
        monkeypatch.setattr(
            huggingface_hub,
            "hf_hub_download",
            lambda *args, **kw: download(*args, cache_dir=tmp_path / "hub", **kw),
        )

    def test_fetched_once_and_then_without_a_network(self, server):
        address = f"hf://org/repo/folder/x.pt#sha256={SHA256}"
        assert local_file(address).read_bytes() == CONTENT
        server.shutdown()
        server.server_close()
        assert local_file(address).read_bytes() == CONTENT
        assert [path for path, _ in server.requests] == ["/org/repo/resolve/main/folder/x.pt"]

    def test_a_revision(self, server):
        local_file("hf://org/repo@v1/x.pt")
        assert [path for path, _ in server.requests] == ["/org/repo/resolve/v1/x.pt"]

    def test_no_such_file(self):
        assert "cannot be fetched: 404" in error_of("hf://org/repo/absent.pt")

    def test_no_network_and_nothing_kept(self, server):
        server.shutdown()
        server.server_close()
        message = error_of("hf://org/repo/x.pt")
        assert message.endswith(
            f"fetch {server.address}/org/repo/resolve/main/x.pt by hand and give its path"
        )

    def test_another_file(self):
        assert "is not the expected file" in error_of(f"hf://org/repo/x.pt#sha256={'1' * 64}")


def test_load_model_takes_addresses(server, tmp_path):
    model = rt.build_model("small_cnn", (8, 8, 1), 3)
    model.save(tmp_path / "model.keras")
    server.content = (tmp_path / "model.keras").read_bytes()
    address = f"{server.address}/file/model.keras"
    images = np.zeros((1, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(rt.load_model(address)(images), model(images))
    (path,) = source_files(address)
    assert path.read_bytes() == server.content
    with pytest.raises(InputError, match="is not the expected file"):
        rt.load_model(address, sha256="0" * 64)
    with pytest.raises(InputError, match="write robustbench:ID:http"):
        rt.load_model(f"{server.address}/file/model.pt")
    with pytest.raises(InputError, match="unknown RobustBench model"):
        rt.load_model(f"robustbench:Nobody2030:{server.address}/file/other.pt")
    assert len(server.requests) == 1
    with pytest.raises(InputError, match="is no PyTorch file"):
        rt.load_model(f"robustbench:Wong2020Fast:{server.address}/file/other.pt")
