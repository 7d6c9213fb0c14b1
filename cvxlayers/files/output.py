"""Files are written complete or not at all; what is no ordinary file is written into and never replaced."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["obstacle", "replacing", "same_as"]

_BINARY = getattr(os, "O_BINARY", 0)  # where files of text are another kind

_KINDS = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISBLK, "it is a block device"),
    (stat.S_ISSOCK, "it is a socket"),
)
"""What nothing is written into."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which comes to stand at ``path`` in one step when all is written, and after an error not.

    An ordinary file keeps its permissions, and its owner where the process may give files away. A link stays, and the
    file that it leads to is replaced. A pipe or a character device (``/dev/null``, ``/dev/stdout``) stays as well and
    is written into in the end; what leads to no such thing is refused.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        It cannot be written: no such folder, no permission, a folder, a block device, a socket, ...

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "numbers")
    >>> with replacing(path) as file:
    ...     found = file.write(b"1 2 3")
    >>> with open(path, "rb") as file:
    ...     file.read()
    b'1 2 3'
    """
    path = os.fspath(path)
    there = _refused(path, _status(path))
    target = os.path.realpath(path)
    if there is not None and not (stat.S_ISREG(there.st_mode) and _is(target, there)):
        content = io.BytesIO()
        yield content
        with open(os.open(path, os.O_WRONLY | os.O_TRUNC | _BINARY), "wb") as file:  # never creates one
            file.write(content.getbuffer())
        return
    folder = os.path.dirname(target)
    partial = os.path.join(folder, f".{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
    handle = os.open(partial, flags, 0o666)  # less what the process lets nobody do
    try:
        with open(handle, "wb") as file:
            yield file
        if there is not None:
            _keep(there, partial)
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def obstacle(path: str | os.PathLike[str]) -> str:
    """Why a file cannot be written to ``path``, before work is spent on what goes into it; empty where it can.

    >>> obstacle("/")
    'it is a folder'
    """
    path = os.fspath(path)
    try:
        there = _refused(path, _status(path))
    except OSError as exc:
        return exc.strerror or str(exc)
    if there is not None and not stat.S_ISREG(there.st_mode):
        return ""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
        return ""
    return f"the folder {folder} does not exist or cannot be written to"


def same_as(path: str | os.PathLike[str], descriptor: int) -> bool:
    """Whether ``path`` leads to what is open under this number, such as 1, the standard output."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _status(path: str) -> os.stat_result | None:
    """What stands there, links followed; None where nothing does."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _refused(path: str, there: os.stat_result | None) -> os.stat_result | None:
    """The same, unless nothing may be written into it."""
    if there is None:
        return None
    for is_one, words in _KINDS:
        if is_one(there.st_mode):
            raise OSError(errno.EISDIR if is_one is stat.S_ISDIR else errno.EINVAL, words, path)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it may not be written to", path)
    return there


def _is(target: str, there: os.stat_result) -> bool:
    """Whether a name leads to this file; not where it comes from ``/proc`` and the file has no name any more."""
    found = _status(target)
    return found is not None and os.path.samestat(found, there)


def _keep(there: os.stat_result, partial: str) -> None:
    """Give a new file the owner and the permissions of an old one."""
    made = os.stat(partial)
    if (made.st_uid, made.st_gid) != (there.st_uid, there.st_gid):
        with contextlib.suppress(OSError, AttributeError):  # it may not be given away, or there are no owners
            os.chown(partial, there.st_uid, there.st_gid)
    os.chmod(partial, stat.S_IMODE(there.st_mode))
