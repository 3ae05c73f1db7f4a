"""Files that the package writes: readable by their owner only, and never those of somebody else.

Another user of the machine may have put a link, a pipe or a file at the path, to destroy a file of
this user or to read what is written. So links are not followed, neither symbolic nor hard ones, and
a file that another user owns is refused. A user of the machine cannot forge a file of root.

Windows has neither modes nor owners here, and no flag against links; there the path is looked at
before.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PRIVATE = 0o600
"""Mode of a new file."""

ATTEMPTS = 10
"""Attempts to open a file that others create and remove meanwhile."""

FLAGS = 0
for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):
    # Without O_NONBLOCK, the call may wait for the other end of a pipe. Windows lacks the last two.
    FLAGS |= getattr(os, name, 0)

SYSTEM_FOLDERS = ("/dev", "/dev/fd", "/proc")
"""Folders of standard streams and descriptors, whose links only the system makes."""


def open_private(
    path: str | os.PathLike[str],
    flags: int = os.O_RDWR,
    *,
    create: bool = True,
    shared: bool = False,
    linked: bool = False,
) -> int:
    """Open a regular file and return its descriptor. A new file has mode 0600 under any umask.

    Args:
        flags: how to open it, without the flags that create, empty or follow.
        create: create the file if it is missing.
        shared: accept the file of another user unless everybody may write to it.
        linked: accept a file with several names, if the caller knows it by its content.

    Raises:
        OSError: It cannot be opened, or is a link, a directory, a pipe, a device, or the file of
            another user. `strerror` says what is the matter and what to do.
    """
    flags |= FLAGS
    for _ in range(ATTEMPTS):
        try:
            descriptor = _open_existing(path, flags)
            break
        except FileNotFoundError:
            if not create:
                raise
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, PRIVATE)
            make_private(descriptor)
            return descriptor
    else:
        raise OSError(errno.EAGAIN, "it is created and removed all the time", os.fspath(path))
    try:
        check_owned(os.fstat(descriptor), path, shared=shared, linked=linked)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_existing(path: str | os.PathLike[str], flags: int) -> int:
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        raise _link(path)
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise _link(path) from None
        raise


def make_private(descriptor: int) -> None:
    """Take all rights to an open file away from other users, where the file system has modes."""
    if hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchmod(descriptor, PRIVATE)


def check_owned(
    found: os.stat_result,
    path: str | os.PathLike[str],
    *,
    shared: bool = False,
    linked: bool = False,
) -> None:
    """Check that a file is a regular file of this user or of root, with one name.

    Args:
        found: status of the file, or of the link at the path.
        shared, linked: see `open_private`.

    Raises:
        OSError: It is not.
    """
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    if found.st_nlink > 1 and not linked:
        problem = "it has another name, a hard link; remove that name, or use a copy"
        raise OSError(errno.EMLINK, problem, os.fspath(path))
    if (shared and not found.st_mode & stat.S_IWOTH) or _is_own(found, path):
        return
    problem = f"it belongs to another user, with the id {found.st_uid}; remove it, or name another"
    raise OSError(errno.EPERM, problem, os.fspath(path))


def _is_own(found: os.stat_result, path: str | os.PathLike[str]) -> bool:
    if not hasattr(os, "geteuid") or found.st_uid in (0, os.geteuid()):
        return True
    # A share, or a disk without owners, may show each file as that of one user.
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as new:
            return os.fstat(new.fileno()).st_uid == found.st_uid
    except OSError:
        return False


def _link(path: str | os.PathLike[str]) -> OSError:
    problem = "it is a symbolic link; remove it, or name the file to which it leads"
    return OSError(errno.ELOOP, problem, os.fspath(path))


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a standard stream, a descriptor, a device, or a pipe.

    The pipe of another user is none: that user would read what is written.
    """
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    try:
        if folder in SYSTEM_FOLDERS or folder.startswith("/proc/"):
            mode = os.stat(path).st_mode
            return not stat.S_ISDIR(mode) and not stat.S_ISBLK(mode)
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) or (stat.S_ISFIFO(found.st_mode) and _is_own(found, path))


def check_replaceable(path: str | os.PathLike[str], begin: bytes) -> None:
    """Check that `replace_private` may replace what is at a path, if anything is.

    Args:
        begin: first bytes of each content that the package writes there.

    Raises:
        OSError: It cannot be opened, or has content of something else.
    """
    try:
        descriptor = open_private(path, os.O_RDONLY, create=False)
    except FileNotFoundError:
        return
    try:
        found = os.read(descriptor, len(begin))
    finally:
        os.close(descriptor)
    if found not in (b"", begin):
        raise OSError(errno.EEXIST, FOREIGN_CONTENT, os.fspath(path))


FOREIGN_CONTENT = "it has content of something else, which is kept; remove it, or name another file"


def replace_private(path: str | os.PathLike[str], content: bytes, begin: bytes) -> None:
    """Put a new file in the place of an earlier one in one step.

    Args:
        begin: see `check_replaceable`.

    Raises:
        OSError: It cannot be written, or the file there is of something else.
    """
    check_replaceable(path, begin)
    with staged_file(path, content) as staged:
        os.replace(staged, path)


@contextmanager
def staged_file(path: str | os.PathLike[str], content: bytes) -> Iterator[str]:
    """Write a new file beside a path, to be put in its place, and yield its own path.

    It is removed at the end unless it was moved.

    Raises:
        OSError: It cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    descriptor, staged = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            make_private(descriptor)
            file.write(content)
        yield staged
    finally:
        with suppress(OSError):
            os.unlink(staged)
