"""Downloads a network of MadryLab's challenges, checks it, and lays its checkpoint where this
package can load it.

    python scripts/fetch_madry.py --dataset=mnist --model=secret --output_dir=models [--sha256=HEX]
    [--url=URL]

The addresses are those of fetch_model.py in github.com/MadryLab/mnist_challenge and
cifar10_challenge. A SHA-256 is published for the two secret models alone, in those repositories'
README.md; of the others the one found is printed, to be given as --sha256 next time. The checkpoint
appears whole or not at all in OUTPUT_DIR/DATASET_MODEL. A download that breaks off stays beside it
as a hidden .part file, and the same command goes on from there.

Exit codes: 0 done; 2 bad input, a bad file or no network, with one line on stderr. Python's
standard library only."""

import argparse
import contextlib
import hashlib
import http.client
import os
import pathlib
import re
import shlex
import shutil
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib

# (data set, model) -> (address, SHA-256 where one is published).
MODELS = {
    ("mnist", "natural"): (
        "https://github.com/MadryLab/mnist_challenge_models/raw/master/natural.zip",
        None,
    ),
    ("mnist", "adv_trained"): (
        "https://github.com/MadryLab/mnist_challenge_models/raw/master/adv_trained.zip",
        None,
    ),
    ("mnist", "secret"): (
        "https://github.com/MadryLab/mnist_challenge_models/raw/master/secret.zip",
        "14eea09c72092db5c2eb5e34cd105974f42569281d2f34826316e356d057f96d",
    ),
    ("cifar10", "natural"): ("https://www.dropbox.com/s/cgzd5odqoojvxzk/natural.zip?dl=1", None),
    ("cifar10", "adv_trained"): (
        "https://www.dropbox.com/s/g4b6ntrp8zrudbz/adv_trained.zip?dl=1",
        None,
    ),
    ("cifar10", "secret"): (
        "https://www.dropbox.com/s/ywc0hg8lr5ba8zd/secret.zip?dl=1",
        "555be6e892372599380c9da5d5f9802f9cbd098be8a47d24d96937a002305fd4",
    ),
}

ATTEMPTS = 4
WAIT_SECONDS = 2.0  # between two attempts
TIMEOUT_SECONDS = 30.0
CHUNK = 1 << 20
ZIP_START = b"PK\x03\x04"


class FetchError(Exception):
    """What a person can mend: one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise FetchError(f"{message}; see --help")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or a FetchError."""
    parser = _Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--dataset", required=True, choices=sorted({dataset for dataset, _ in MODELS})
    )
    parser.add_argument("--model", required=True, choices=sorted({model for _, model in MODELS}))
    parser.add_argument(
        "--output_dir", required=True, type=pathlib.Path, help="made if it is absent"
    )
    parser.add_argument("--sha256", help="of the archive; takes the place of the published one")
    parser.add_argument("--url", help="a mirror of the archive")
    given = parser.parse_args(arguments)
    if given.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", given.sha256):
        raise FetchError(f"--sha256 has 64 hexadecimal digits, got {given.sha256!r}")
    if given.url is not None and not re.match(r"https?://[^/]", given.url):
        raise FetchError(f"--url begins with http:// or https://, got {given.url!r}")
    return given


def download(url: str, part: pathlib.Path) -> None:
    """Downloads into `part`, from where it ends, in a few attempts. `part` stays where the
    connection breaks off.

    Raises:
        FetchError: no connection, an answer that is an error or no archive.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download_once(url, part)
            return
        except urllib.error.HTTPError as error:
            raise FetchError(f"{url} answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                have = part.stat().st_size if part.exists() else 0
                raise FetchError(
                    f"{url} cannot be downloaded ({error}); {have} bytes are here, and the same "
                    "command goes on from there"
                ) from error
            time.sleep(WAIT_SECONDS)


def _download_once(url, part):
    """One request. Raises an OSError or HTTPException where it breaks off."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "tf_robust_transfer/fetch_madry"} | (
        {"Range": f"bytes={have}-"} if have else {}
    )
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # There is nothing after what is here.
        part.unlink()
        raise http.client.HTTPException("the part that was here is longer than the file") from error
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server sent another range than was asked for")
        missing = int(response.headers.get("Content-Length", 0))
        chunk = response.read(CHUNK)
        if not goes_on and not (
            chunk.startswith(ZIP_START) or len(chunk) < min(missing, len(ZIP_START))
        ):
            kind = (
                "an HTML page"
                if re.search(rb"<html|<!doctype", chunk[:1000], re.IGNORECASE)
                else "no zip archive"
            )
            raise FetchError(
                f"{url} gave {kind} instead of the model; open it in a browser to see what it says"
            )
        with part.open("ab" if goes_on else "wb") as file:
            while chunk:
                file.write(chunk)
                missing -= len(chunk)
                chunk = response.read(CHUNK)
    if missing > 0:
        raise http.client.HTTPException(f"the connection broke off {missing} bytes before the end")


def check_sha256(part: pathlib.Path, expected: str | None) -> str:
    """The file's SHA-256, or a FetchError where it is not the expected one."""
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and found != expected.lower():
        raise FetchError(
            f"the archive has SHA-256 {found}, expected {expected.lower()}; it was removed"
        )
    return found


def extract(part: pathlib.Path, target: pathlib.Path) -> None:
    """Takes the folder that holds the checkpoint out of the archive and makes it `target`, in one
    rename.

    Raises:
        FetchError: a damaged archive, one with links or paths that lead out of it, or without
            exactly one folder with a checkpoint.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(part) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members:
                _check_member(member)
            folders = {
                pathlib.PurePosixPath(m.filename).parent
                for m in members
                if m.filename.endswith(".index")
            }
            if len(folders) != 1:
                raise FetchError(
                    f"the archive has {len(folders)} folders with a checkpoint (*.index), expected "
                    "1"
                )
            temporary.mkdir()
            for member in members:
                path = pathlib.PurePosixPath(member.filename)
                if path.parent in folders:
                    with archive.open(member) as source, (temporary / path.name).open("xb") as file:
                        shutil.copyfileobj(source, file, CHUNK)
        temporary.rename(target)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:  # RuntimeError: an encrypted one
        raise FetchError(
            f"the archive is damaged ({error}); it was removed, fetch it again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_member(member):
    parts = re.split(r"[/\\]", member.filename)
    outside = member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise FetchError(
            f"the archive holds {member.filename!r}, which leads out of it or is a link; nothing "
            "was extracted"
        )


def fetch(given: argparse.Namespace) -> None:
    """Downloads, checks and extracts, and prints what was found and how to load it."""
    name = f"{given.dataset}_{given.model}"
    target = given.output_dir / name
    if target.exists():
        raise FetchError(f"{str(target)!r} is there already; remove it to fetch it again")
    url, published = MODELS[given.dataset, given.model]
    url, expected = given.url or url, given.sha256 or published
    made = not given.output_dir.exists()
    given.output_dir.mkdir(parents=True, exist_ok=True)
    part = given.output_dir / f".{name}.zip.part"
    try:
        print(f"downloading {url}", flush=True)
        download(url, part)
        try:
            found = check_sha256(part, expected)
            extract(part, target)
        except FetchError:
            part.unlink()  # Going on from it would never end well.
            raise
        part.unlink()
    finally:
        if made:
            with contextlib.suppress(OSError):  # It is not empty.
                given.output_dir.rmdir()
    if expected is None:
        print(
            f"no SHA-256 is published for this model; found {found}; give --sha256={found} to "
            "check it next time"
        )
    else:
        print(f"SHA-256 {found}, as {'given' if given.sha256 else 'published'}")
    eps = "0.3" if given.dataset == "mnist" else "8/255"
    print(
        "python -m tf_robust_transfer.evaluate "
        f"--model={shlex.quote(f'madry_{given.dataset}:{target}')} "
        f"--dataset={given.dataset} --attacks=clean,pgd20 --eps={eps} --output=results.json"
    )


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    try:
        fetch(parse(arguments))
    except (FetchError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; start the same command again to go on\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
