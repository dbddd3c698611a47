"""Writing: the old or the new, never a half."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gencli import storage
from gencli.errors import MachineError, RunStateError


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_whole_and_obeys_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    before = os.umask(0o027)
    try:
        storage.replace_file(path, "가")
    finally:
        os.umask(before)
    assert path.read_bytes() == "가".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    storage.replace_file(path, b"two")
    assert path.read_bytes() == b"two" and names(path.parent) == ["file"]


def test_a_failure_leaves_the_old_file_and_no_staging(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), storage.staged_file(path) as staging:
        staging.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), storage.staged_folder(tmp_path / "a") as staging:
        (staging / "one").write_text("1")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    with storage.staged_folder(tmp_path / "a") as staging:
        (staging / "one").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "one").read_text() == "1"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_the_disk_s_refusal_has_a_next_step(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(MachineError) as caught:
        storage.replace_file(path, "new")
    assert caught.value.hint and str(path) in caught.value.where
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_a_second_process_is_kept_out_and_a_dead_one_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        f"from gencli.storage import locked; from pathlib import Path\nwith locked(Path({str(path)!r})): pass"
    )
    with storage.locked(path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another process" in other.stderr and str(os.getpid()) in other.stderr
        with pytest.raises(RunStateError), storage.locked(path):
            pass
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_staging_of_dead_processes_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a-999999999").write_text("")
    (tmp_path / f".tmp-b-{os.getpid()}").mkdir()
    (tmp_path / ".tmp-mine").write_text("")
    assert storage.sweep_staging(tmp_path) == 1
    assert names(tmp_path) == [".tmp-b-" + str(os.getpid()), ".tmp-mine"]
