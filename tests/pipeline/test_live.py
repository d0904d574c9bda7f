"""tools/live.py hands the epochs of a run to DVCLive while it runs."""

import csv
import subprocess
import sys

from tests.documents import template
from tests.project import ROOT

TRAINING = """
import sys, time
from pathlib import Path
history, seen = Path("plots/history.csv"), Path("dvclive/plots/metrics/val/loss.tsv")
rows = "epoch,train_loss,val_loss,lr\\n"
for epoch in range(3):
    rows += f"{epoch},{1 - epoch / 10},{2 - epoch / 10},0.1\\n"
    history.with_suffix(".new").write_text(rows)
    history.with_suffix(".new").replace(history)
    # goes on when DVCLive has the epoch; else the test's time limit ends it
    while epoch < 2 and not (seen.is_file() and f"\\n{epoch}\\t" in seen.read_text()):
        time.sleep(0.05)
"""


def run_live(folder, code: str) -> int:
    (folder / "plots").mkdir()
    # of the run before
    (folder / "plots/history.csv").write_text("epoch,train_loss,val_loss,lr\n7,9,9,9\n")
    (folder / "train.py").write_text(code)
    here = {
        "python tools": f"{sys.executable} {ROOT}/tools",
        "dvc repro": f"{sys.executable} train.py",
    }
    (command,) = template("python tools/live.py", here)
    return subprocess.run(command.split(), cwd=folder, timeout=120).returncode


def logged(folder, name: str) -> list[tuple[str, ...]]:
    with (folder / f"dvclive/plots/metrics/{name}.tsv").open() as file:
        return [tuple(row) for row in csv.reader(file, delimiter="\t")][1:]


def test_each_epoch_is_handed_over_as_it_ends_and_the_last_one_at_the_end(tmp_path):
    assert run_live(tmp_path, TRAINING) == 0
    assert logged(tmp_path, "val/loss") == [("0", "2.0"), ("1", "1.9"), ("2", "1.8")]
    assert [value for _, value in logged(tmp_path, "train/loss")] == ["1.0", "0.9", "0.8"]
    assert {path.name for path in tmp_path.iterdir()} == {"plots", "train.py", "dvclive"}


def test_a_command_that_fails_hands_over_no_old_history_and_keeps_its_code(tmp_path):
    assert run_live(tmp_path, "import sys\nsys.exit(3)\n") == 3
    assert not (tmp_path / "dvclive/plots").exists()
