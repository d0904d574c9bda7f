"""Several processes of a stage: real ones, over gloo. They give what one gives, to the last bit, or
end together."""

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

from tests.documents import template
from tests.pipeline.test_interrupts import checkpoint, wait_for
from tests.project import ROOT, stages_run
from tests.training.examples import make_trainer, plain_settings, split_at
from vit_finetune.core import ranks as ranks_module
from vit_finetune.core.errors import UserError
from vit_finetune.core.ranks import Ranks, process_group, ranks_of_launcher

slow = pytest.mark.slow


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [0, 1, 4, 10])
def test_the_parts_of_the_processes_are_together_everything_once_and_in_order(world_size, count):
    parts = [Ranks(rank, world_size).select(range(count)) for rank in range(world_size)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Threads in place of processes: they leave their parts where all find them."""

    meeting: threading.Barrier | None = None
    parts: dict[int, torch.Tensor] = field(default_factory=dict)

    def all_gather(self, part):
        self.parts[self.rank] = part
        self.meeting.wait()
        gathered = torch.cat([self.parts[rank] for rank in range(self.world_size)])
        self.meeting.wait()
        return gathered


@pytest.mark.parametrize("world_size", [2, 4])
def test_training_shared_by_several_gives_the_bits_of_one(world_size):
    settings = plain_settings(
        epochs=2, shards=4, lr=0.0004, class_weights="balanced", token_dropout=0.5
    )
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes)
    # the last batch, of 2 images, leaves shards empty
    stored = torch.randn(18, 5, 16)

    def train(ranks):
        split_model = split_at(copy.deepcopy(model), 1)
        trainer = make_trainer(split_model, stored, torch.arange(18) % 3, settings, ranks=ranks)
        return [trainer.run_epoch(epoch) for epoch in (1, 2)], split_model.model.state_dict()

    rows, state = train(Ranks())
    assert not torch.equal(state["head.weight"], model.head.weight)
    meeting = threading.Barrier(world_size, timeout=60)
    parts = {}
    ranks = [
        ThreadRanks(rank, world_size, rank, world_size, meeting, parts)
        for rank in range(world_size)
    ]
    with ThreadPoolExecutor(world_size) as pool:
        for other_rows, other_state in pool.map(train, ranks):
            assert other_rows == rows
            assert all(torch.equal(other_state[name], state[name]) for name in state)


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.ranks import process_group, run_processes

def work(ranks):
    with readable_errors("trial"):
{body}

if __name__ == "__main__":
    try:
        with readable_errors("trial"):
            run_processes(2, work)
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


def start(folder, *lines):
    """A program that starts two processes, of which each runs these lines."""
    body = "\n".join(f"        {line}" for line in lines)
    (folder / "program.py").write_text(PROGRAM.format(body=body))
    return subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def end_of(folder, *lines):
    """Exit status, standard output and standard error of that program."""
    process = start(folder, *lines)
    output, errors = process.communicate(timeout=100)
    return process.returncode, output, errors


def test_two_processes_gather_parts_of_any_length_in_order_and_take_the_values_of_the_first(
    tmp_path,
):
    folder = tmp_path / "é 100%25 #?"  # they meet in a file of the folder, whatever its name
    folder.mkdir()
    ended = end_of(
        folder,
        "import torch",
        "with process_group(ranks, 'trial', Path('meeting').resolve()):",
        "    for parts in ([[[0, 1]], [[2, 3], [4, 5], [6, 7]]], [[[0, 1], [2, 3]], []]):",
        "        part = torch.tensor(parts[ranks.rank], dtype=torch.long).view(-1, 2)",
        "        assert ranks.all_gather(part).tolist() == parts[0] + parts[1]",
        "    value = torch.tensor([float(ranks.rank)])",
        "    ranks.broadcast(value)",
        "    assert value == 0",
        "    if ranks.is_first: print(ranks)",
    )
    assert ended == (0, "Ranks(rank=0, world_size=2, local_rank=0, local_world_size=2)\n", "")


SLEEP = "time.sleep(60)"
TO_GO_ON = "so all end; run it again to go on\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["if ranks.rank: os.kill(os.getpid(), signal.SIGKILL)", SLEEP],
            f"trial: process 1 of this stage ended (SIGKILL), {TO_GO_ON}",
        ),
        (
            ["if ranks.is_first: os._exit(3)", SLEEP],
            f"trial: process 0 of this stage ended (exit status 3), {TO_GO_ON}",
        ),
        (["if ranks.rank: raise UserError('no disk')", SLEEP], "trial: no disk\n"),
        (["raise UserError('no disk')"], "trial: no disk\n"),  # all of them
        pytest.param(  # while the other waits for it
            [
                "with process_group(ranks, 'trial', Path('meeting').resolve()):",
                "    if ranks.rank: os.kill(os.getpid(), signal.SIGKILL)",
                "    ranks.barrier()",
            ],
            f"trial: process 1 of this stage ended (SIGKILL), {TO_GO_ON}",
            marks=slow,
        ),
    ],
)
def test_when_a_process_fails_all_end_and_one_line_says_why(tmp_path, lines, message):
    assert end_of(tmp_path, *lines) == (1, "", message)


def test_a_bug_in_a_process_ends_all_and_shows_its_traceback(tmp_path):
    status, output, errors = end_of(tmp_path, "if ranks.rank: {}['lost']", SLEEP)
    assert (status, output) == (1, "")
    assert errors.startswith("trial: this is a bug; please report it with the lines below\n")
    assert errors.count("Traceback") == 1
    assert errors.endswith("KeyError: 'lost'\n")


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (lambda process: os.killpg(process.pid, signal.SIGINT), 1, "interrupted\n"),
        (lambda process: process.send_signal(signal.SIGINT), 1, "interrupted\n"),
        (lambda process: process.kill(), -signal.SIGKILL, ""),
    ],
)
def test_when_the_starter_is_interrupted_or_killed_its_processes_end_without_a_word(
    tmp_path, end, status, message
):
    process = start(tmp_path, "print('started', flush=True)", SLEEP)
    assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
    end(process)
    # ends when all have ended, which have the same pipes
    assert process.communicate(timeout=20) == ("", message)
    assert process.returncode == status


@pytest.fixture(scope="module")
def single(finished, tmp_path_factory):
    """A run of one process of one thread, with what several have to share: a short last batch among
    it."""
    project = finished.copy(tmp_path_factory.mktemp("single") / "p")
    set_processes(project, 1)
    project.set(
        **{
            "train.epochs": 4,
            "subset.train_size": 61,
            "embed.batch_size": 1,
            "train.class_weights": "balanced",
            "freeze.trainable_blocks": 2,
        }
    )
    project.repro("train")
    return project


def set_processes(project, count):
    project.set(**{"runtime.processes": count, "runtime.threads": count})


def twin(single, folder, processes):
    """A copy that remembers no run, so that DVC cannot restore what a stage would write."""
    project = single.copy(folder)
    set_processes(project, processes)
    project.run("rm", "-r", ".dvc/cache/runs")
    return project


RUN = ("dvc", "repro", "--force", "--single-item")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@slow
def test_four_processes_give_the_bytes_of_one(single, tmp_path):
    project = twin(single, tmp_path / "p", 4)
    for stage in ("adapt", "embed", "train"):
        done = project.run(*RUN, stage, real=True)
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
    set_processes(shared, 2)
    shared.repro("train", real=True)
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
    project = twin(single, tmp_path / "p", before)
    project.set(**{"train.epochs": 60})
    dvc = project.start("dvc", "repro", "train")
    wait_for(checkpoint(project, "train/*/last.pt"), dvc)
    (stage,) = project.processes("train")
    stage.send_signal(signal.SIGINT)
    _, errors = dvc.communicate()
    assert errors.count("train: interrupted\n") == 1
    assert "Traceback" not in errors
    set_processes(project, after)
    resumed = project.run("dvc", "repro", "train", real=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "before training" not in resumed.stdout  # it went on
    assert project.outputs() == undisturbed


@slow
@pytest.mark.parametrize("stage", ["embed", "train"])
def test_when_one_process_is_killed_all_end_with_one_line_and_no_work_is_lost(
    single, tmp_path, stage
):
    project = twin(single, tmp_path / "p", 2)
    long = {"embed": {"subset.train_size": 850}, "train": {"train.epochs": 1000}}[stage]
    project.set(**long)
    dvc = project.start("dvc", "repro", stage)
    begun = {"embed": "embed/*/train/*", "train": "train/*/last.pt"}[stage]
    wait_for(checkpoint(project, begun), dvc)
    (parent,) = project.processes(stage)
    workers = [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    _, errors = dvc.communicate()
    ended = rf"{stage}: process [01] of this stage ended \(SIGKILL\), {re.escape(TO_GO_ON)}"
    assert re.search(ended, errors)
    assert "Traceback" not in errors
    assert not project.processes()
    project.set(**{"subset.train_size": 61, "train.epochs": 4})
    project.repro("train")
    assert project.outputs() == single.outputs()


@slow
def test_torchrun_on_one_machine_gives_the_same_bytes(single, tmp_path):
    project = twin(single, tmp_path / "p", 1)
    for stage in ("adapt", "embed", "train"):
        done = project.run(*TORCHRUN, "2", "--module", "stages", stage, env=ONE_THREAD)
        assert done.returncode == 0, done.stderr
    assert project.outputs() == single.outputs()


LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
OF_FOUR = {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def launched(monkeypatch):
    """A function that leaves these variables of a launcher in the environment, and no others."""

    def leave(variables):
        for name in (*LAUNCHED, *OF_FOUR):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return leave


@pytest.mark.parametrize(
    ("variables", "ranks"),
    [
        ({}, None),
        ({"MASTER_ADDR": "host", "MASTER_PORT": "1"}, None),
        (LAUNCHED, Ranks(1, 2)),
        ({**LAUNCHED, **OF_FOUR}, Ranks(1, 4, 1, 2)),
        ({**LAUNCHED, "RANK": "0", "WORLD_SIZE": "1"}, Ranks()),
    ],
)
def test_a_launchers_variables_count_where_they_are_complete(launched, variables, ranks):
    launched(variables)
    assert ranks_of_launcher() == ranks


def without(*names):
    return {name: value for name, value in {**LAUNCHED, **OF_FOUR}.items() if name not in names}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RANK": "0"},
            "^RANK in the .+ WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not .+ unset RANK,",
        ),
        (without("RANK"), "but RANK is not set; unset WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE, or"),
        (without("MASTER_PORT"), "but MASTER_PORT is not set"),
        (without("LOCAL_WORLD_SIZE"), "but LOCAL_WORLD_SIZE is not set"),
        (
            {**LAUNCHED, "RANK": "gold"},
            "^RANK is 'gold' in the environment, no whole number; unset it",
        ),
        ({**LAUNCHED, "WORLD_SIZE": "-2"}, "^WORLD_SIZE is '-2' in the"),
        ({**LAUNCHED, "RANK": "2"}, "RANK is 2, WORLD_SIZE is 2: a rank is below .+ unset RANK"),
        ({**LAUNCHED, **OF_FOUR, "LOCAL_RANK": "2"}, "LOCAL_RANK is 2, LOCAL_WORLD_SIZE is 2: a"),
        ({**LAUNCHED, **OF_FOUR, "LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE is 5: a rank is"),
    ],
)
def test_variables_that_no_launcher_sets_so_are_named_in_one_line(launched, variables, message):
    launched(variables)
    with pytest.raises(UserError, match=message) as caught:
        ranks_of_launcher()
    assert "\n" not in str(caught.value)


@slow
def test_who_waits_long_for_the_others_says_how_many_and_where(tmp_path):
    script = (
        "from vit_finetune.core import ranks\n"
        "ranks.SILENCE = 0.2\n"
        "with ranks.process_group(ranks.ranks_of_launcher(), 'train'): pass"
    )
    port = str(free_port())
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            **LAUNCHED,
            "RANK": "0",
            "MASTER_PORT": port,
            "PYTHONPATH": str(ROOT / "src"),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.stderr.readline()
    process.kill()
    process.communicate()
    assert said == (
        "train: process 0 of 2 (RANK, WORLD_SIZE) waits for 1 more at "
        f"127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT)\n"
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@slow
def test_torchrun_on_several_machines_gives_the_same_bytes(single, tmp_path):
    """Two launchers of two processes each, as on two machines."""
    project = twin(single, tmp_path / "p", 1)
    (line,) = template("torchrun --nnodes", {"HOST": "127.0.0.1", "29500": free_port()})
    machines = [project.start("bash", "-c", line, env=ONE_THREAD) for _ in range(2)]
    errors = [machine.communicate()[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert project.outputs() == single.outputs()


@slow
def test_dvc_runs_the_first_of_several_machines_and_the_others_join_it(single, tmp_path):
    project = twin(single, tmp_path / "p", 1)
    export, first, second = template(
        "export MASTER_ADDR", {"HOST": "127.0.0.1", "29500": free_port()}
    )
    variables = {"GLOO_SOCKET_IFNAME": "lo"}
    other = project.start("bash", "-c", f"{export}\n{second}", env=variables)
    done = project.run("bash", "-c", f"{export}\n{first}", env=variables, real=True)
    _, errors = other.communicate()
    assert (done.returncode, other.returncode) == (0, 0), done.stderr + errors
    assert stages_run(done.stdout) == ["train"]
    assert project.outputs() == single.outputs()


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
    monkeypatch.setattr(ranks_module, "GRACE", 0)
    told = told or error
    try:
        with (
            pytest.raises(type(told)) as caught,
            process_group(Ranks(), "trial", tmp_path / "meeting"),
        ):
            raise error
        assert str(caught.value) == str(told)
    finally:
        torch.distributed.destroy_process_group()
