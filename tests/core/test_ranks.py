"""Processes side by side: real ones, over gloo. They give what one gives, to the last bit, or end together."""

import signal
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.documents import template
from tests.project import stages_run
from tests.test_interrupts import checkpoint, wait_for
from vit_finetune.fit import sum_gradients
from vit_finetune.ranks import Ranks, side_by_side


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [0, 1, 4, 10])
def test_what_the_processes_own_is_everything_once_and_in_order(size, count):
    shares = [Ranks(rank, size).own(range(count)) for rank in range(size)]
    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_gradients_are_added_in_the_order_of_their_shards():
    shards = [torch.tensor([1e8, 1.0, 0.5]), torch.tensor([1.0, 1.0, 0.5]), torch.tensor([-1e8, 1.0, 1.0])]
    parameters = [nn.Parameter(torch.zeros(1, 2)), nn.Parameter(torch.zeros(1))]
    sum_gradients(parameters, shards, Ranks())
    assert parameters[0].grad.tolist() == [[0.0, 3.0]]  # 1e8 + 1 - 1e8 in float32; any other order gives 1
    assert parameters[1].grad.tolist() == [2.0]


GATHER = """
import torch
from vit_finetune.ranks import side_by_side
with side_by_side(3) as ranks:
    part = torch.arange(ranks.rank * 4.0).view(-1, 2)
    assert ranks.gather(part).tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5], [6, 7]], ranks.gather(part)
    value = torch.tensor([float(ranks.rank)])
    ranks.share(value)
    assert value == 0
    if ranks.first:
        print(ranks, flush=True)
"""


def test_parts_of_any_length_are_gathered_in_order_and_shared_from_the_first(tmp_path):
    done = subprocess.run([sys.executable, "-c", GATHER], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Ranks(rank=0, size=3, local_rank=0, local_size=3)\n"


@pytest.fixture(scope="module")
def single(finished, tmp_path_factory):
    """A run of one process of one thread, with what several have to share: a short last batch among it."""
    project = finished.copy(tmp_path_factory.mktemp("single") / "p")
    several(project, 1)
    project.set(
        **{"train.epochs": 4, "subset.train_size": 61, "embed.batch_size": 1, "train.class_weights": "balanced"}
    )
    project.set(**{"freeze.trainable_blocks": 2})
    project.repro("train")
    return project


def several(project, processes):
    project.set(**{"runtime.processes": processes, "runtime.threads": processes})


def again(single, folder, processes):
    """A twin that remembers no run, so that DVC cannot restore what a stage would write."""
    project = single.copy(folder)
    several(project, processes)
    project.run("rm", "-r", ".dvc/cache/runs")
    return project


RUN = ("dvc", "repro", "--force", "--single-item")


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_give_the_bytes_of_one(single, tmp_path, processes):
    project = again(single, tmp_path / "p", processes)
    for stage in ("embed", "train"):
        done = project.run(*RUN, stage)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"{stage}: ") == 1  # its time, told once
    assert project.outputs() == single.outputs()
    assert not list((project.folder / ".checkpoints").glob("*/*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"freeze.trainable_blocks": "all", "train.token_dropout": 0.0},
        {"freeze.trainable_blocks": 0},
        {"train.crop_scale": 0.5, "train.randaugment": 5},
    ],
)
def test_images_and_pooled_features_too(single, tmp_path, changes):
    alone = single.copy(tmp_path / "alone")
    alone.set(**changes)
    alone.repro("train")
    shared = single.copy(tmp_path / "shared")
    shared.set(**changes)
    several(shared, 2)
    shared.repro("train")
    assert shared.outputs() == alone.outputs()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 1)])
def test_a_run_stopped_on_some_goes_on_with_another_number(single, tmp_path, before, after):
    twin = single.copy(tmp_path / "twin")
    twin.set(**{"train.epochs": 60})
    twin.repro("train")
    project = again(single, tmp_path / "p", before)
    project.set(**{"train.epochs": 60})
    dvc = project.start("dvc", "repro", "train")
    wait_for(checkpoint(project, "train/*/last.pt"), dvc)
    project.processes("train")[0].send_signal(signal.SIGINT)
    _, errors = dvc.communicate()
    assert errors.count("train: interrupted\n") == 1
    several(project, after)
    assert project.repro("train") == ["train"]
    assert project.outputs() == twin.outputs()


@pytest.mark.parametrize("stage", ["embed", "train"])
def test_a_process_that_dies_takes_the_run_down_in_one_line_and_nothing_is_lost(single, tmp_path, stage):
    project = again(single, tmp_path / "p", 2)
    long = {"embed": {"subset.train_size": 850}, "train": {"train.epochs": 1000}}[stage]
    project.set(**long)
    dvc = project.start("dvc", "repro", stage)
    wait_for(checkpoint(project, {"embed": "embed/*/train/*", "train": "train/*/last.pt"}[stage]), dvc)
    first, second = sorted(project.processes(stage), key=lambda process: process.create_time())
    second.kill()
    _, errors = dvc.communicate()
    assert "process 1 of this stage ended (SIGKILL), so all end; run it again to go on\n" in errors
    assert "Traceback" not in errors
    first.wait(30)
    assert not project.processes()
    project.set(**{"subset.train_size": 61, "train.epochs": 4})
    project.repro("train")
    assert project.outputs() == single.outputs()


def test_the_first_process_takes_the_others_with_it(single, tmp_path):
    project = again(single, tmp_path / "p", 4)
    project.set(**{"train.epochs": 1000})
    stage = project.start(sys.executable, "-m", "stages.train")
    wait_for(checkpoint(project, "train/*/last.pt"), stage)
    others = [process for process in project.processes("train") if process.pid != stage.pid]
    assert len(others) == 3
    stage.kill()
    for process in others:
        process.wait(30)


def test_an_error_ends_all_without_a_traceback(single, tmp_path):
    project = again(single, tmp_path / "p", 4)
    (project.folder / "data/subset/val_labels.npy").unlink()
    done = project.run(sys.executable, "-m", "stages.train")
    assert done.returncode == 1
    assert "val_labels.npy" in done.stderr
    assert "Traceback" not in done.stderr
    assert not project.processes()


@pytest.mark.parametrize("stage", ["embed", "train"])
def test_the_stages_run_under_torchrun_as_they_are(single, tmp_path, stage):
    project = again(single, tmp_path / "p", 1)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = project.run(*launcher, "-m", f"stages.{stage}", env={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})
    assert done.returncode == 0, done.stderr
    assert project.outputs() == single.outputs()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_torchrun_on_several_machines_gives_the_same_bytes(single, tmp_path):
    """Two launchers of two processes each, as on two machines."""
    project = again(single, tmp_path / "p", 1)
    (line,) = template("torchrun --nnodes", {"HOST": "127.0.0.1", "29500": free_port()})
    variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    machines = [project.start("bash", "-c", line, env=variables) for _ in range(2)]
    errors = [machine.communicate()[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert project.outputs() == single.outputs()


def test_dvc_runs_the_first_of_several_machines_and_the_others_join_it(single, tmp_path):
    project = again(single, tmp_path / "p", 1)
    export, first, second = template("export MASTER_ADDR", {"HOST": "127.0.0.1", "29500": free_port()})
    variables = {"GLOO_SOCKET_IFNAME": "lo"}
    other = project.start("bash", "-c", f"{export}\n{second}", env=variables)
    done = project.run("bash", "-c", f"{export}\n{first}", env=variables)
    _, errors = other.communicate()
    assert (done.returncode, other.returncode) == (0, 0), done.stderr + errors
    assert stages_run(done.stdout) == ["train"]
    assert project.outputs() == single.outputs()
    idle = project.run("bash", "-c", f"{export}\nRANK=1 python -m stages.report")
    assert idle.returncode == 0  # nothing to do


def test_more_processes_than_a_batch_has_parts_are_refused_in_one_line(single, tmp_path):
    project = again(single, tmp_path / "p", 1)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3")
    done = project.run(*launcher, "-m", "stages.train", env={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})
    assert done.returncode == 1
    assert "train: there are 3 processes: their number must divide train.shards (4), whose parts of a" in done.stderr
    assert (project.folder / "models/finetuned").exists()  # what was there before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("the weights of x could not be loaded: connection refused"), "the weights of x could not be loaded"),
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), "another process of this stage ended"),
        (RuntimeError("a mistake of another kind"), "a mistake of another kind"),
    ],
)
def test_only_what_the_processes_say_to_each_other_is_told_as_the_end_of_one(tmp_path, monkeypatch, error, told):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(type(error), match=told), side_by_side(1):
            raise error
    finally:
        torch.distributed.destroy_process_group()
