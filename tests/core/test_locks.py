"""Only a lock that another process holds is told as held."""

import errno
import os

import pytest
from filelock import Timeout

from vit_finetune.core.errors import UserError
from vit_finetune.core.locks import file_lock
from vit_finetune.core.process import only_one
from vit_finetune.data.cifar import load_cifar


def test_a_lock_is_held_by_one_at_a_time_and_asking_for_it_takes_nothing_from_the_holder(tmp_path):
    path = tmp_path / "a.lock"
    with file_lock(path, "").acquire():
        with pytest.raises(Timeout), file_lock(path, "").acquire(timeout=0.1):
            pass
        with pytest.raises(Timeout), file_lock(path, "").acquire(blocking=False):
            pass
    with file_lock(path, "").acquire(blocking=False):
        pass


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EACCES"])
def reason(request, monkeypatch):
    """On a file system that answers so to flock; the words of the system for it."""
    number = getattr(errno, request.param)

    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    return os.strerror(number)


def test_a_file_system_without_locks_is_named_as_that_with_a_way_on(tmp_path, reason):
    path = tmp_path / "a.lock"
    with pytest.raises(UserError) as caught:
        file_lock(path, "go elsewhere")
    assert str(caught.value) == (
        f"{path} cannot be locked ({reason}): its file system has no locks, which keep two runs "
        "apart; go elsewhere"
    )


def test_a_stage_on_a_file_system_without_locks_is_not_told_that_another_one_runs(
    tmp_path, monkeypatch, reason
):
    monkeypatch.chdir(tmp_path)
    message = r"^\.run/train\.lock cannot be locked .+; clone the project to a local disk"
    with pytest.raises(UserError, match=message), only_one("train"):
        pass


def test_a_download_to_a_file_system_without_locks_does_not_wait_for_another_one(
    tmp_path, monkeypatch, reason, capsys
):
    monkeypatch.delenv("VIT_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    message = "cannot be locked .+; name a cache folder on a local disk in XDG_CACHE_HOME. Either"
    with pytest.raises(UserError, match=message):
        load_cifar("cifar10")
    assert "waiting" not in capsys.readouterr().out
