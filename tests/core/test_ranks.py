"""Processes side by side: real ones, over gloo. They give what one gives, to the last bit, or end
together."""

import copy
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import timm
import torch
from torch import nn

from tests.documents import template
from tests.pipeline.test_interrupts import checkpoint, wait_for
from tests.project import ROOT, stages_run
from vit_finetune.core import ranks as ranks_module
from vit_finetune.core.errors import UserError
from vit_finetune.core.ranks import Ranks, side_by_side
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.build import preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.training.loop import Trainer
from vit_finetune.training.settings import Settings

slow = pytest.mark.slow


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [0, 1, 4, 10])
def test_the_shares_of_the_processes_are_together_everything_once_and_in_order(size, count):
    shares = [Ranks(rank, size).own(range(count)) for rank in range(size)]
    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_gradients_are_added_in_the_order_of_their_shards():
    shards = [([[1e8, 1.0]], [0.5]), ([[1.0, 1.0]], [0.5]), ([[-1e8, 1.0]], [1.0])]
    trainer = Trainer.__new__(Trainer)
    unused = nn.Parameter(torch.zeros(3))
    trainer.parameters, trainer.ranks = (
        [nn.Parameter(torch.zeros(1, 2)), unused, nn.Parameter(torch.zeros(1))],
        Ranks(),
    )
    gradients = [(torch.tensor(first), None, torch.tensor(last)) for first, last in shards]
    losses, hits = trainer._sum_gradients(
        (torch.tensor(0.5), torch.tensor(2), some) for some in gradients
    )
    # 1e8 + 1 - 1e8 in float32; any other order gives 1
    assert trainer.parameters[0].grad.tolist() == [[0.0, 3.0]]
    assert trainer.parameters[2].grad.tolist() == [2.0]
    assert unused.grad is None
    assert (losses.tolist(), hits.tolist()) == ([0.5] * 3, [2] * 3)


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Threads in place of processes: they leave their parts where all find them."""

    meeting: threading.Barrier | None = None
    parts: dict[int, torch.Tensor] = field(default_factory=dict)

    def gather(self, part):
        self.parts[self.rank] = part
        self.meeting.wait()
        gathered = torch.cat([self.parts[rank] for rank in range(self.size)])
        self.meeting.wait()
        return gathered


@pytest.mark.parametrize("size", [2, 4])
def test_training_shared_by_several_gives_the_bits_of_one(size):
    changes = {
        "epochs": 2,
        "batch_size": 8,
        "shards": 4,
        "class_weights": "balanced",
        "token_dropout": 0.5,
    }
    settings = Settings("train", lr=0.0004, **changes)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes)
    freeze(model, 1)
    # the last batch, of 2 images, leaves shards empty
    views = [torch.randn(18, 5, 16), torch.randn(18, 5, 16)]

    def train(ranks):
        preprocess = preprocessing(model, None)
        split_model = SplitModel(
            copy.deepcopy(model), 1, preprocess, torch.device("cpu"), torch.float32
        )
        trainer = Trainer(split_model, views, torch.arange(18) % 3, settings, seed=0, ranks=ranks)
        return [trainer.run_epoch(epoch) for epoch in (1, 2)], split_model.model.state_dict()

    rows, state = train(Ranks())
    assert not torch.equal(state["head.weight"], model.head.weight)
    meeting, parts = threading.Barrier(size, timeout=60), {}
    with ThreadPoolExecutor(size) as pool:
        shared = list(
            pool.map(
                train, [ThreadRanks(rank, size, rank, size, meeting, parts) for rank in range(size)]
            )
        )
    for other_rows, other_state in shared:
        assert other_rows == rows
        assert all(torch.equal(other_state[name], state[name]) for name in state)


TWO = """
import torch
from vit_finetune.core.ranks import side_by_side
with side_by_side(2) as ranks:
    for parts in ([[[0, 1]], [[2, 3], [4, 5], [6, 7]]], [[[0, 1], [2, 3]], []]):
        part = torch.tensor(parts[ranks.rank], dtype=torch.long).view(-1, 2)
        assert ranks.gather(part).tolist() == parts[0] + parts[1], ranks.gather(part)
    value = torch.tensor([float(ranks.rank)])
    ranks.share(value)
    assert value == 0
    if ranks.first:
        print(ranks, flush=True)
"""


def test_two_processes_gather_parts_of_any_length_in_order_and_share_the_values_of_the_first(
    tmp_path,
):
    folder = tmp_path / "é 100%25 #?"  # they meet in a file of the folder, whatever its name
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Ranks(rank=0, size=2, local_rank=0, local_size=2)\n"


@pytest.fixture(scope="module")
def single(finished, tmp_path_factory):
    """A run of one process of one thread, with what several have to share: a short last batch among
    it."""
    project = finished.copy(tmp_path_factory.mktemp("single") / "p")
    several(project, 1)
    project.set(
        **{
            "train.epochs": 4,
            "subset.train_size": 61,
            "embed.batch_size": 1,
            "train.class_weights": "balanced",
        }
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
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@slow
def test_four_processes_give_the_bytes_of_one(single, tmp_path):
    project = again(single, tmp_path / "p", 4)
    for stage in ("adapt", "embed", "train"):
        done = project.run(*RUN, stage)
        assert done.returncode == 0, done.stderr
        # its time, told once
        assert len(re.findall(rf"^{stage}: [\d.]+ s$", done.stdout, re.MULTILINE)) == 1
    assert project.outputs() == single.outputs()
    assert not list((project.folder / ".checkpoints").glob("*/*"))


@slow
@pytest.mark.parametrize(
    "changes",
    [
        {"freeze.trainable_blocks": "all", "train.token_dropout": 0.0},  # images
        {"freeze.trainable_blocks": 0},  # pooled features
        {"train.crop_scale": 0.5, "train.randaugment": 5},  # images that change in every epoch
    ],
)
def test_two_processes_give_the_bytes_of_one_whatever_they_train_on(single, tmp_path, changes):
    alone = single.copy(tmp_path / "alone")
    alone.set(**changes)
    alone.repro("train")
    shared = single.copy(tmp_path / "shared")
    shared.set(**changes)
    several(shared, 2)
    shared.repro("train")
    assert shared.outputs() == alone.outputs()


@pytest.fixture(scope="module")
def undisturbed(single, tmp_path_factory):
    """The outputs of a run long enough to be stopped in the middle."""
    project = single.copy(tmp_path_factory.mktemp("undisturbed") / "p")
    project.set(**{"train.epochs": 60})
    project.repro("train")
    return project.outputs()


@slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 1)])
def test_a_stopped_run_can_go_on_with_another_number_of_processes(
    single, undisturbed, tmp_path, before, after
):
    project = again(single, tmp_path / "p", before)
    project.set(**{"train.epochs": 60})
    dvc = project.start("dvc", "repro", "train")
    wait_for(checkpoint(project, "train/*/last.pt"), dvc)
    project.processes("train")[0].send_signal(signal.SIGINT)
    _, errors = dvc.communicate()
    assert errors.count("train: interrupted\n") == 1
    several(project, after)
    assert project.repro("train") == ["train"]
    assert project.outputs() == undisturbed


@slow
@pytest.mark.parametrize("stage", ["embed", "train"])
def test_when_one_process_is_killed_all_end_with_one_line_and_no_work_is_lost(
    single, tmp_path, stage
):
    project = again(single, tmp_path / "p", 2)
    long = {"embed": {"subset.train_size": 850}, "train": {"train.epochs": 1000}}[stage]
    project.set(**long)
    dvc = project.start("dvc", "repro", stage)
    wait_for(
        checkpoint(project, {"embed": "embed/*/train/*", "train": "train/*/last.pt"}[stage]), dvc
    )
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


@slow
def test_when_the_first_process_is_killed_the_others_end_as_well(single, tmp_path):
    project = again(single, tmp_path / "p", 4)
    project.set(**{"train.epochs": 1000})
    stage = project.start(sys.executable, "-m", "stages.train")
    wait_for(checkpoint(project, "train/*/last.pt"), stage)
    others = [process for process in project.processes("train") if process.pid != stage.pid]
    assert len(others) == 3
    stage.kill()
    for process in others:
        process.wait(30)


@slow
def test_an_expected_error_in_all_processes_ends_them_without_a_traceback(single, tmp_path):
    project = again(single, tmp_path / "p", 4)
    (project.folder / "data/subset/val_labels.npy").unlink()
    done = project.run(sys.executable, "-m", "stages.train")
    assert done.returncode == 1
    assert "val_labels.npy" in done.stderr
    assert "Traceback" not in done.stderr
    assert not project.processes()


@slow
def test_torchrun_on_one_machine_gives_the_same_bytes(single, tmp_path):
    project = again(single, tmp_path / "p", 1)
    for stage in ("adapt", "embed", "train"):
        done = project.run(*TORCHRUN, "2", "-m", f"stages.{stage}", env=ONE_THREAD)
        assert done.returncode == 0, done.stderr
    assert project.outputs() == single.outputs()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@slow
def test_torchrun_on_several_machines_gives_the_same_bytes(single, tmp_path):
    """Two launchers of two processes each, as on two machines."""
    project = again(single, tmp_path / "p", 1)
    (line,) = template("torchrun --nnodes", {"HOST": "127.0.0.1", "29500": free_port()})
    machines = [project.start("bash", "-c", line, env=ONE_THREAD) for _ in range(2)]
    errors = [machine.communicate()[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert project.outputs() == single.outputs()


@slow
def test_dvc_runs_the_first_of_several_machines_and_the_others_join_it(single, tmp_path):
    project = again(single, tmp_path / "p", 1)
    export, first, second = template(
        "export MASTER_ADDR", {"HOST": "127.0.0.1", "29500": free_port()}
    )
    variables = {"GLOO_SOCKET_IFNAME": "lo"}
    other = project.start("bash", "-c", f"{export}\n{second}", env=variables)
    done = project.run("bash", "-c", f"{export}\n{first}", env=variables)
    _, errors = other.communicate()
    assert (done.returncode, other.returncode) == (0, 0), done.stderr + errors
    assert stages_run(done.stdout) == ["train"]
    assert project.outputs() == single.outputs()
    idle = project.run("bash", "-c", f"{export}\nRANK=1 python -m stages.report")
    assert idle.returncode == 0  # nothing to do


@slow
def test_a_number_of_processes_that_does_not_divide_the_shards_is_refused_in_one_line(
    single, tmp_path
):
    project = again(single, tmp_path / "p", 1)
    done = project.run(*TORCHRUN, "3", "-m", "stages.train", env=ONE_THREAD)
    assert done.returncode == 1
    assert (
        "train: there are 3 processes: their number must divide train.shards (4), whose parts of a"
        in done.stderr
    )
    assert (project.folder / "models/finetuned").exists()  # what was there before


ENDED = UserError("another process of this stage ended; its own output says why")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), ENDED),
        (RuntimeError("NCCL communicator was aborted"), ENDED),
        (UserError("the weights of x could not be loaded: connection refused"), None),
        (OSError("connection refused"), None),
        (RuntimeError("a mistake of another kind"), None),
    ],
)
def test_only_a_lost_connection_to_another_process_is_told_as_its_end(
    tmp_path, monkeypatch, error, told
):
    monkeypatch.chdir(tmp_path)
    # which an error waits for
    monkeypatch.setattr(ranks_module, "_watch", lambda children, done: None)
    launcher = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("VIT_RANKS", raising=False)
    told = told or error
    try:
        with pytest.raises(type(told)) as caught, side_by_side(1):
            raise error
        assert str(caught.value) == str(told)
    finally:
        torch.distributed.destroy_process_group()
