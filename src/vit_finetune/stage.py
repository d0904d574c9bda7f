"""How a stage runs, and what its script is given: `python -m stages NAME` calls `run`.

What every stage does is here, so that a script holds only its own work.
"""

import importlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tqdm import tqdm

from vit_finetune.core.checkpoints import checkpoint_folder, forget_checkpoints
from vit_finetune.core.device import choose_wait_policy, set_up_torch
from vit_finetune.core.environment import complete_environment
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.experiment_copies import require_whole
from vit_finetune.core.files import require_disk, write_json
from vit_finetune.core.process import DVC_VARIABLE, RUN_FOLDER, end_with_dvc, only_one
from vit_finetune.core.processors import limit_threads
from vit_finetune.core.progress import QUIET_VARIABLE, progress
from vit_finetune.core.ranks import ALONE, Ranks, process_group, ranks_of_launcher, run_processes
from vit_finetune.core.versions import released_versions
from vit_finetune.params import LOCAL_WEIGHTS, Params, read_params

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

MEETING = RUN_FOLDER / "ranks"  # where processes on one machine find each other


@dataclass(frozen=True)
class Stage:
    """What the `main` of a stage's script is given.

    Attributes:
        ranks: this process among those that share the work of the stage.
    """

    name: str
    params: Params
    ranks: Ranks = ALONE

    def device(self) -> "torch.device":
        """The device to compute on, that of `runtime.device`. Sets up torch for it: threads,
        deterministic algorithms."""
        return set_up_torch(self.params.runtime.device, None, self.ranks)

    def say(self, message: str) -> None:
        print(f"{self.name}: {message}", flush=True)

    def warn(self, message: str) -> None:
        self.say(f"warning: {message}")

    def progress(self, items: Iterable[T], unit: str, total: int | None = None) -> "tqdm[T]":
        return progress(items, self.name, unit, total)

    def require_disk(self, folder: Path, size: int) -> None:
        """UserError if the disk has less than `size` bytes left; a line if they are many."""
        if message := require_disk(folder, size):
            self.say(message)

    def checkpoint(self, *inputs: Any) -> Path:
        """The folder for work that an interrupted run need not repeat.

        Args:
            inputs: plain values that stand for everything the work depends on, but the code.
        """
        return checkpoint_folder(self.name, *inputs)

    def record_versions(self) -> None:
        """Write which libraries the stage ran with, to a file that only `report` depends on.

        DVC does not see the installed libraries: it reruns no stage because one changed.
        """
        write_json(f"versions/{self.name}.json", released_versions())

    def forget_checkpoints(self) -> None:
        forget_checkpoints(self.name)


@dataclass(frozen=True)
class Script:
    """What is known of a script before it is imported.

    Attributes:
        name: of the module in stages/.
        memory_key: the key of params.yaml to lower when memory runs out.
        parallel: whether several processes share its work; if not, the first one runs alone.
    """

    name: str
    memory_key: str | None = None
    parallel: bool = False


def run(script: Script) -> NoReturn:
    """Run a stage and exit: with 0 and the time it took, or with 1 and what went wrong.

    Times are printed and never written to an output.
    """
    start = time.monotonic()
    end_with_dvc()
    choose_wait_policy()
    with readable_errors(script.name):
        complete_environment()
        launched = ranks_of_launcher()
        if launched and not launched.is_first and not script.parallel:
            _leave_to_the_first(script, launched)
    ranks = launched if launched and script.parallel else ALONE
    label = _label(script, ranks)
    try:
        with _messages(script, ranks), only_one(label):
            params = read_params()
            for folder, otherwise in input_folders(params).items():
                require_whole(folder, otherwise)
            processes = params.runtime.processes if script.parallel and not launched else 1
            limit_threads(params.runtime.threads, max(processes, ranks.local_world_size))
            if processes > 1:
                MEETING.unlink(missing_ok=True)  # what an earlier run left
                run_processes(processes, _run_rank, script, MEETING.resolve())
            else:
                _compute(script, params, ranks)
    except KeyboardInterrupt:
        sys.exit(f"{label}: interrupted" if ranks.is_first else 130)
    print(f"{label}: {time.monotonic() - start:.1f} s")
    sys.exit(0)


def _leave_to_the_first(script: Script, ranks: Ranks) -> NoReturn:
    """End one of several processes of a stage that runs in one.

    Raises:
        UserError: DVC started it, and would find no outputs.
    """
    if DVC_VARIABLE in os.environ:
        raise UserError(
            f"RANK is {ranks.rank} in the environment, and process 0 alone runs this stage; "
            "unset RANK WORLD_SIZE, which a launcher has left"
        )
    print(f"{script.name}: process {ranks.rank} has nothing to do, process 0 runs this stage alone")
    sys.exit(0)


def input_folders(params: Params) -> dict[str, str]:
    """The folders of a user's own files that a run reads, each with another way than to track it
    by which an experiment in a copy has it."""
    folders = {}
    if params.data.name == "folder":
        folders[params.data.folder] = (
            ", or set data.folder to the absolute path of a folder outside the project"
        )
    if params.model.name.startswith(LOCAL_WEIGHTS):
        folders[params.model.name.removeprefix(LOCAL_WEIGHTS)] = ""
    return folders


def _run_rank(ranks: Ranks, script: Script, meeting: Path) -> None:
    """One of several processes that `run` has started."""
    choose_wait_policy()
    with _messages(script, ranks):
        _compute(script, read_params(), ranks, meeting)


def _compute(script: Script, params: Params, ranks: Ranks, meeting: Path | None = None) -> None:
    module = importlib.import_module(f"stages.{script.name}")  # and with it torch, if it needs it
    stage = Stage(script.name, params, ranks)
    if ranks.world_size == 1:
        module.main(stage)
        return
    with process_group(ranks, script.name, meeting):
        module.main(stage)


@contextmanager
def _messages(script: Script, ranks: Ranks) -> Iterator[None]:
    """Errors in plain words; of several processes only the first prints anything else."""
    if not ranks.is_first:
        os.environ[QUIET_VARIABLE] = "1"
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    with readable_errors(_label(script, ranks), script.memory_key):
        yield


def _label(script: Script, ranks: Ranks) -> str:
    return script.name if ranks.is_first else f"{script.name}, process {ranks.rank}"
