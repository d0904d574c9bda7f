"""Progress bars show on a terminal only."""

import os
import sys
import termios

import pytest

from vit_finetune.core.progress import QUIET_VARIABLE, progress


def test_progress_passes_items_on_and_is_silent_without_a_terminal(capfd):
    assert list(progress(iter("abc"), "train", "epoch", total=3)) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", ["", "1"])
def test_progress_shows_on_a_terminal_unless_asked_to_be_quiet(monkeypatch, quiet):
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    monkeypatch.setenv(QUIET_VARIABLE, quiet)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(progress(range(3), "embed", "batch")) == [0, 1, 2]
        terminal.write("END")
        terminal.flush()
        read = b""
        # a terminal hands over what has arrived, which may be a part
        while not read.endswith(b"END"):
            read += os.read(leader, 10_000)
    os.close(leader)
    written = read.decode()
    if quiet:
        assert written == "END"
    else:
        assert "embed" in written
        assert "3/3" in written
        assert "batch" in written
