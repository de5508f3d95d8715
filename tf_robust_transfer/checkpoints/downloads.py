"""Files that an address names, hf://ORG/REPO/FILE or https://...: fetched once, checked, kept.

The library huggingface_hub fetches them; what came by https is kept in
$TF_ROBUST_TRANSFER_CACHE, by default ~/.cache/tf_robust_transfer, and what came from a hub in the
library's own cache."""

import fcntl
import hashlib
import os
import pathlib
import re
import urllib.parse

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_address(text: str) -> bool:
    """Whether a text names a file elsewhere."""
    return text.startswith(("hf://", "https://", "http://"))


def local_file(text: str) -> pathlib.Path:
    """The local copy of the file that an address names; a path as it is.

    Args:
        text: a path, "hf://ORG/REPO/FILE" ("hf://ORG/REPO@REVISION/FILE"), or "https://...". An
            address may end in "#sha256=" and the expected SHA-256; http:// has to, except on this
            machine. A download that broke off is gone on with where the SHA-256 is given, and
            begun again where it is not.

    Returns:
        pathlib.Path: fetched now, or kept from before, without a network.

    Raises:
        InputError: an address of another form, huggingface_hub not installed, no answer and nothing
            kept, a web page, or another SHA-256.
    """
    if not is_address(text):
        return path_of(text)
    address, fragment, expected = text.partition("#")
    if fragment:
        found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", expected)
        if not found:
            raise InputError(
                f"{text!r}: after '#' an address has sha256= and 64 hexadecimal digits"
            )
        expected = found[1].lower()
    path = _from_hub(address) if address.startswith("hf://") else _from_web(address, expected)
    _check(path, address, expected)
    return path


def _check(path, address, expected):
    """Refuses a web page and another SHA-256."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest() if expected else ""
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise InputError(
            f"{address!r} answers with a web page, no file; give the file's own address"
        )
    if sha256 != expected:
        raise InputError(
            f"{address!r} is not the expected file: its SHA-256 is {sha256}, expected {expected}"
        )


def _library():
    try:
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError:
        raise InputError(
            "addresses of files are fetched by huggingface_hub, which is not installed: "
            "pip install 'tf_robust_transfer[hub]'"
        ) from None
    return huggingface_hub


def _from_hub(address):
    parts = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", address)
    if not parts:
        raise InputError(f"{address!r}: expected hf://ORG/REPO/FILE or hf://ORG/REPO@REVISION/FILE")
    repository, revision, name = parts.groups()
    library = _library()
    try:
        return pathlib.Path(library.hf_hub_download(repository, name, revision=revision))
    except library.errors.LocalEntryNotFoundError:
        url = library.hf_hub_url(repository, name, revision=revision)
        raise InputError(
            f"{address!r}: no answer, and no copy is kept; fetch {url} by hand and give its path"
        ) from None
    # Its HTTP errors are OSErrors, a name that it does not allow is a ValueError.
    except (OSError, ValueError) as error:
        raise InputError(f"{address!r} cannot be fetched: {_in_a_line(error)}") from None


def _from_web(address, expected):
    """The kept copy of a file, fetched if there is none."""
    parts = urllib.parse.urlsplit(address)
    name = pathlib.PurePosixPath(urllib.parse.unquote(parts.path)).name
    if not parts.hostname or not name:
        raise InputError(f"{address!r} names no file; expected https://HOST/.../FILE")
    if parts.scheme == "http" and not expected and parts.hostname not in _LOOPBACK:
        raise InputError(f"{address!r}: http:// needs #sha256= and the file's SHA-256, or https://")
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    home = os.environ.get("TF_ROBUST_TRANSFER_CACHE", "~/.cache/tf_robust_transfer")
    kept = path_of(home) / key / name
    if not kept.exists():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            _fetch(address, expected, kept)
        except OSError as error:
            raise InputError(
                f"{address!r} cannot be fetched: {_in_a_line(error)}; the same command goes on, or "
                f"fetch it by hand and put it at {str(kept)!r}"
            ) from None
    return kept


def _fetch(address, expected, kept):
    library = _library()
    part = kept.with_name(f".{kept.name}.part")
    with open(part, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of two processes the second finds the file
        if kept.exists():
            return
        if not expected:  # what is there may be of another version
            file.truncate(0)
        size = file.seek(0, os.SEEK_END)
        try:
            library.file_download.http_get(address, file, resume_size=size)
        except OSError:
            raise
        except Exception as error:  # the HTTP client's own: no connection, a bad redirect
            raise OSError(error) from None
        file.flush()
        try:
            _check(part, address, expected)
        except InputError:
            part.unlink()
            raise
        os.fsync(file.fileno())
        part.replace(kept)


def _in_a_line(error):
    return " ".join(str(error).split())[:200] or type(error).__name__
