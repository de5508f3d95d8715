"""scripts/fetch_madry.py against a server on loopback: resuming, pages that are no archive, wrong
hashes, bad archives.
"""

import contextlib
import hashlib
import http.server
import io
import re
import stat
import threading
import zipfile

import pytest

from scripts import fetch_madry

FILES = {
    "models/secret/checkpoint": b'model_checkpoint_path: "/theirs/checkpoint-9"\n',
    "models/secret/checkpoint-9.index": b"index" * 50,
    "models/secret/checkpoint-9.data-00000-of-00001": bytes(range(256)) * 400,
}


def zipped(files, compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, value in files.items():
            archive.writestr(name, value)
    return content.getvalue()


GOOD = zipped(FILES)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`. `ranges`: what was asked for, by request. `breaks`: how many bytes to send,
    by request.
    """

    content, status, honours_ranges, shift = GOOD, 200, True, 0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.breaks = [], []
        self.url = f"http://127.0.0.1:{self.server_port}/secret.zip?dl=1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        start, whole = 0, len(server.content)
        status, more = server.status, {}
        if asked and server.honours_ranges and status == 200:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            status, more = (
                206,
                {"Content-Range": f"bytes {start + server.shift}-{whole - 1}/{whole}"},
            )
            if start >= whole:
                status, more = 416, {"Content-Range": f"bytes */{whole}"}
        body = server.content[start:]
        self.send_response(status)
        for key, value in {**more, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch_madry, "WAIT_SECONDS", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def output_dir(tmp_path):
    return tmp_path / "my models"


def run(server, output_dir, *more, model="natural"):
    arguments = [
        "--dataset=mnist",
        f"--model={model}",
        f"--output_dir={output_dir}",
        f"--url={server.url}",
    ]
    return fetch_madry.main([*arguments, *more])


def assert_whole(output_dir, name="mnist_natural"):
    assert [path.name for path in output_dir.iterdir()] == [name]
    found = {
        f"models/secret/{path.name}": path.read_bytes() for path in (output_dir / name).iterdir()
    }
    assert found == FILES


def assert_refused(code, capsys, *parts):
    """Exit code 2 and one line that says all of this."""
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1
    for part in parts:
        assert part in error


def test_whole_download_says_how_to_load_it_and_its_hash(server, output_dir, capsys):
    assert run(server, output_dir) == 0
    assert_whole(output_dir)
    said = capsys.readouterr().out
    digest = hashlib.sha256(GOOD).hexdigest()
    assert f"no SHA-256 is published for this model; found {digest}" in said
    assert f"--model='madry_mnist:{output_dir}/mnist_natural'" in said
    assert server.ranges == [None]


def test_a_connection_that_breaks_off_is_resumed(server, output_dir):
    server.breaks = [1000, 0, 20_000]
    assert run(server, output_dir) == 0
    assert_whole(output_dir)
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-", "bytes=21000-"]


def test_the_next_command_goes_on_where_the_last_one_stopped(server, output_dir, capsys):
    server.breaks = [1000, 0, 0, 500]
    assert_refused(run(server, output_dir), capsys, "1500 bytes are here", "goes on from there")
    assert [path.name for path in output_dir.iterdir()] == [".mnist_natural.zip.part"]
    assert run(server, output_dir) == 0
    assert_whole(output_dir)
    assert server.ranges[-1] == "bytes=1500-"


@pytest.mark.parametrize("case", ["no ranges", "complete", "too long", "other range"])
def test_what_is_there_already_and_what_the_server_makes_of_it(case, server, output_dir, capsys):
    output_dir.mkdir()
    part = output_dir / ".mnist_natural.zip.part"
    part.write_bytes({"complete": GOOD, "too long": GOOD + b"more"}.get(case, GOOD[:5000]))
    server.honours_ranges = case != "no ranges"
    server.shift = 7 if case == "other range" else 0
    code = run(server, output_dir)
    if case == "other range":
        assert_refused(code, capsys, "another range")
        assert part.read_bytes() == GOOD[:5000]
    else:
        assert code == 0
        assert_whole(output_dir)


def test_a_published_hash_is_checked(server, output_dir, capsys):
    published = fetch_madry.MODELS["mnist", "secret"][1]
    code = run(server, output_dir, model="secret")
    assert_refused(code, capsys, hashlib.sha256(GOOD).hexdigest(), f"expected {published}")
    assert not output_dir.exists()
    digest = hashlib.sha256(GOOD).hexdigest().upper()
    assert run(server, output_dir, f"--sha256={digest}", model="secret") == 0
    assert_whole(output_dir, "mnist_secret")
    assert "as given" in capsys.readouterr().out


def test_a_wrong_hash_leaves_nothing_and_the_next_command_starts_anew(server, output_dir, capsys):
    assert_refused(run(server, output_dir, f"--sha256={'0' * 64}"), capsys, "expected " + "0" * 64)
    assert not output_dir.exists()
    assert run(server, output_dir) == 0
    assert server.ranges == [None, None]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "an HTML page"),
        (b"\n <HTML>" + b"x" * 5000, "an HTML page"),
        (b"not a zip", "no zip archive"),
        (b"", "no zip archive"),
    ],
)
def test_a_page_that_is_no_archive(content, said, server, output_dir, capsys):
    server.content = content
    assert_refused(run(server, output_dir), capsys, said, server.url)
    assert not output_dir.exists()


def test_a_page_in_place_of_the_rest_does_not_destroy_what_is_here(server, output_dir, capsys):
    output_dir.mkdir()
    (output_dir / ".mnist_natural.zip.part").write_bytes(GOOD[:5000])
    server.content, server.honours_ranges = b"<html>Sign in</html>", False
    assert_refused(run(server, output_dir), capsys, "an HTML page")
    assert (output_dir / ".mnist_natural.zip.part").read_bytes() == GOOD[:5000]


def test_an_error_of_the_server(server, output_dir, capsys):
    server.status = 404
    assert_refused(run(server, output_dir), capsys, "404", server.url)
    assert not output_dir.exists() and len(server.ranges) == 1


def test_no_server(server, output_dir, capsys):
    arguments = [
        "--dataset=mnist",
        "--model=natural",
        f"--output_dir={output_dir}",
        "--url=http://127.0.0.1:1/x.zip",
    ]
    assert_refused(fetch_madry.main(arguments), capsys, "cannot be downloaded", "0 bytes are here")
    assert not output_dir.exists()


def link(name):
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


BAD_ARCHIVES = {
    "traversal": (zipped(FILES | {"models/secret/../../../evil.index": b"x"}), "evil.index"),
    "traversal by backslash": (zipped(FILES | {"..\\evil": b"x"}), "leads out"),
    "absolute": (zipped(FILES | {"/tmp/evil": b"x"}), "'/tmp/evil'"),
    "drive": (zipped(FILES | {"C:/evil": b"x"}), "'C:/evil'"),
    "link": (
        zipped(FILES | {link("models/secret/checkpoint-1.index"): b"/etc/passwd"}),
        "checkpoint-1.index",
    ),
    "no checkpoint": (zipped({"readme.txt": b"x"}), "0 folders with a checkpoint"),
    "two checkpoints": (
        zipped(FILES | {"models/natural/checkpoint-1.index": b"x"}),
        "2 folders with a checkpoint",
    ),
    "cut": (GOOD[:-30], "damaged"),
    "flipped": (GOOD.replace(bytes(range(256)), bytes(256), 1), "damaged"),
    "flipped deflate": (
        (deflated := zipped(FILES, zipfile.ZIP_DEFLATED))[:250] + b"\xff" * 60 + deflated[310:],
        "damaged",
    ),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archives_leave_nothing(case, server, output_dir, capsys):
    server.content, said = BAD_ARCHIVES[case]
    assert_refused(run(server, output_dir), capsys, said)
    assert not output_dir.exists()
    assert not list(output_dir.parent.rglob("*evil*"))


def test_a_model_that_is_there_already_stays(server, output_dir, capsys):
    assert run(server, output_dir) == 0
    capsys.readouterr()
    assert_refused(run(server, output_dir), capsys, "is there already")
    assert_whole(output_dir)
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--dataset, --model, --output_dir"),
        (["--dataset=svhn", "--model=secret", "--output_dir=x"], "svhn"),
        (["--dataset=mnist", "--model=robust", "--output_dir=x"], "adv_trained"),
        (
            ["--dataset=mnist", "--model=secret", "--output_dir=x", "--sha256=abc"],
            "64 hexadecimal digits, got 'abc'",
        ),
        (
            ["--dataset=mnist", "--model=secret", "--output_dir=x", "--url=file:///etc/passwd"],
            "file:///etc/passwd",
        ),
    ],
)
def test_bad_command_lines(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(fetch_madry.main(arguments), capsys, said)
    assert not list(tmp_path.iterdir())


def test_output_dir_is_a_file(server, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert_refused(run(server, tmp_path / "file"), capsys, "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_every_model_of_both_challenges_has_an_address():
    assert set(fetch_madry.MODELS) == {
        (d, m) for d in ("mnist", "cifar10") for m in ("natural", "adv_trained", "secret")
    }
    for (_, model), (url, sha256) in fetch_madry.MODELS.items():
        assert url.startswith("https://") and f"/{model}.zip" in url
        assert (sha256 is not None) == (model == "secret")


def test_help_ends_well(capsys):
    with contextlib.suppress(SystemExit):
        fetch_madry.main(["--help"])
    assert "--sha256" in capsys.readouterr().out
