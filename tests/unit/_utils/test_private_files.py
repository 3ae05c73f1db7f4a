"""Files that only their owner may read, and what may lie in their place."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cognigy_async._utils import private_files
from cognigy_async._utils.private_files import (
    check_replaceable,
    is_stream,
    open_private,
    replace_private,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the system has no such files")

OTHER = 12345
"""Id of a user that is not the one of the tests."""

needs_root = pytest.mark.skipif(
    sys.platform != "win32" and os.geteuid() != 0, reason="only root can give files to other users"
)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_a_new_file_is_for_its_owner_under_any_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        os.close(open_private(tmp_path / "file"))
        replace_private(tmp_path / "page", b"<new>", b"<")
    assert mode_of(tmp_path / "file") == mode_of(tmp_path / "page") == 0o600


def test_an_existing_file_keeps_its_content_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o640)
    descriptor = open_private(path)
    assert os.read(descriptor, 10) == b"content"
    os.close(descriptor)
    assert mode_of(path) == 0o640


PLANTED: dict[str, Callable[[Path], object]] = {
    "symbolic link": lambda path: path.symlink_to("target"),
    "symbolic link;": lambda path: path.symlink_to("nowhere"),
    "hard link": lambda path: path.hardlink_to(path.with_name("target")),
    "directory": Path.mkdir,
    "not a regular file": os.mkfifo,
}


@pytest.mark.parametrize("kind", PLANTED)
def test_only_regular_files_with_one_name_are_opened(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "file", tmp_path / "target"
    target.write_bytes(b"content")
    PLANTED[kind](path)
    found = os.lstat(path)
    for flags in (os.O_RDWR, os.O_RDWR | os.O_APPEND):
        with pytest.raises(OSError, match=kind.replace("directory", "[Dd]irectory")):
            open_private(path, flags)
    with pytest.raises(OSError, match=kind.replace("directory", "file of|irectory|regular")):
        replace_private(path, b"<new>", b"<")
    assert os.path.samestat(os.lstat(path), found)
    assert target.read_bytes() == b"content"
    assert not list(tmp_path.glob(".*")), "no temporary file is left"
    assert not (tmp_path / "nowhere").exists()


def test_a_device_is_not_opened() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        open_private("/dev/full")


def test_a_file_that_is_not_there_is_not_created_for_a_reader(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "file", os.O_RDONLY, create=False)
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "no" / "file")
    assert not list(tmp_path.iterdir())


def test_a_file_that_others_create_and_remove_meanwhile(tmp_path: Path) -> None:
    path, over = tmp_path / "file", threading.Event()

    def flicker() -> None:
        while not over.is_set():
            path.touch()
            path.unlink(missing_ok=True)

    thread = threading.Thread(target=flicker)
    thread.start()
    try:
        for _ in range(300):
            with suppress(BlockingIOError):
                os.close(open_private(path))
    finally:
        over.set()
        thread.join()


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_of_another_user_is_refused_unless_it_is_shared(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"<")
    path.chmod(mode)
    os.chown(path, OTHER, -1)
    with pytest.raises(OSError, match="another user, with the id 12345; remove it"):
        open_private(path)
    with pytest.raises(OSError, match="another user"):
        replace_private(path, b"<new>", b"<")
    if mode == 0o666:
        with pytest.raises(OSError, match="another user"):
            open_private(path, shared=True)
    else:
        os.close(open_private(path, shared=True))
    assert path.read_bytes() == b"<"


@needs_root
def test_the_file_of_root_is_that_of_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o666)
    tmp_path.chmod(0o777)
    assert as_user(path) == "opened\n"
    os.chown(path, OTHER + 1, -1)
    assert "another user, with the id 12346" in as_user(path)


@needs_root
def test_on_a_disk_that_knows_no_owners_each_file_is_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o666)
    tmp_path.chmod(0o777)
    os.chown(path, OTHER, -1)
    # The process has another id than the one that its files get.
    assert as_user(path, "os.geteuid = lambda: 1\n") == "opened\n"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def as_user(path: Path, before: str = "") -> str:
    """Open a file as another user, and return what happened."""
    code = before + (
        "try:\n    os.close(open_private(sys.argv[1])); print('opened')\n"
        "except OSError as error:\n    print(error)\n"
    )
    start = (
        "import os, sys\nimport tempfile\n"
        "from cognigy_async._utils.private_files import open_private\n"
        f"os.setgroups([]); os.setgid({OTHER}); os.setuid({OTHER})\n"
    )
    folder = path.parent
    while folder != folder.parent and folder.stat().st_uid == 0 and "pytest" in str(folder):
        folder.chmod(folder.stat().st_mode | 0o011)
        folder = folder.parent
    done = subprocess.run(
        [sys.executable, "-c", start + code, path], capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.stdout


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "page"
    replace_private(path, b"<first>", b"<")
    with path.open("rb") as reader:
        replace_private(path, b"<second, longer>", b"<")
        assert reader.read() == b"<first>"
    assert path.read_bytes() == b"<second, longer>"
    path.write_bytes(b"")
    replace_private(path, b"<third>", b"<")
    assert [found.name for found in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize("content", [b"notes", b"<pag", b" <page>"])
def test_content_of_something_else_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page"
    path.write_bytes(content)
    kept = "content of something else, which is kept; remove it"
    with pytest.raises(OSError, match=kept):
        check_replaceable(path, b"<page>")
    with pytest.raises(OSError, match=kept):
        replace_private(path, b"<page>new", b"<page>")
    assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["page"]


def test_what_is_replaced_stays_where_there_is_no_room(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"<first>")
    code = (
        "import resource, sys\n"
        "from cognigy_async._utils.private_files import replace_private\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    replace_private(sys.argv[1], b'<' * 200, b'<')\n"
        "except OSError as error:\n    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert path.read_bytes() == b"<first>"
    assert [found.name for found in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_names_of_the_system_are_streams(name: str) -> None:
    if not os.path.exists(name):
        pytest.skip(f"the system has no {name}")
    assert is_stream(name)


def test_a_pipe_is_a_stream_and_a_link_to_one_is_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert is_stream(tmp_path / "pipe")
    for number, target in enumerate((tmp_path / "pipe", Path("/dev/stdout"), Path("/dev/null"))):
        link = tmp_path / f"link{number}"
        link.symlink_to(target)
        assert not is_stream(link)
    for path in (tmp_path, tmp_path / "missing", Path("/dev/shm/x"), Path("/dev/fd")):
        assert not is_stream(path)


@needs_root
def test_the_pipe_of_another_user_is_no_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.chown(tmp_path / "pipe", OTHER, -1)
    assert not is_stream(tmp_path / "pipe")


def test_no_function_is_needed_that_windows_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    with monkeypatch.context() as patch:
        for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "geteuid"):
            patch.delattr(os, name, raising=False)
        importlib.reload(private_files)
        os.close(private_files.open_private(tmp_path / "file"))
        private_files.replace_private(tmp_path / "page", b"<new>", b"<")
        for leads_to in ("target", "nowhere"):
            (tmp_path / "link").unlink(missing_ok=True)
            target.write_bytes(b"content")
            (tmp_path / "link").symlink_to(leads_to)
            with pytest.raises(OSError, match="symbolic link"):
                private_files.open_private(tmp_path / "link")
    importlib.reload(private_files)
    assert target.read_bytes() == b"content"
    assert not (tmp_path / "nowhere").exists()
