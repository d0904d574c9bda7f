"""Seconds of every stage of the default run on a GPU, and where they go: `python
benchmarks/gpu.py`

With the 5,000 training images of the default run it is made to take less than ten minutes. To try
the script without a GPU: `python benchmarks/gpu.py --device cpu --images 200 --stages adapt embed
train evaluate --model local-dir:pretrained/glyph-vit`. It needs data/subset (`dvc repro subset`),
and the pretrained weights where `adapt` finds them.

Every way runs the stages in this process, first as they are, then again for a few steps under
torch.profiler:

    one-shard     one shard, passes of 256 images: what `auto` is on a GPU
    four-shards   four shards, passes of 16 images: what `auto` is on a CPU
    compiled      as one-shard; torch.compile compiles the blocks, and its seconds count

Rows are written after each stage, so that an interrupted run leaves what it has measured.
"""

import argparse
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import torch
from in_process import ROOT, prepare, run_stages
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from vit_finetune.activations import forward
from vit_finetune.activations.files import ActivationFile
from vit_finetune.core.arrays import read_split
from vit_finetune.core.files import read_json, write_csv, write_text
from vit_finetune.model import boundary
from vit_finetune.model.boundary import SplitModel
from vit_finetune.training import features, trainer
from vit_finetune.training.trainer import Trainer

WORK = ROOT / ".checkpoints/gpu"
STAGES = ("adapt", "embed", "train", "evaluate", "attention")
WHOLE = {"adapt": {"shards": 1}, "train": {"shards": 1}, "embed": {"batch_size": 256}}
PARTED = {"adapt": {"shards": 4}, "train": {"shards": 4}, "embed": {"batch_size": 16}}
WAYS = {"one-shard": WHOLE, "four-shards": PARTED, "compiled": WHOLE}
PARTS = {  # of a stage's seconds; the frozen pass is a part of its writing
    "features before training": (features, "read_or_compute"),
    "fitting probes": (trainer, "fit_probe"),
    "epochs": (Trainer, "run_epoch"),
    "validation": (Trainer, "_validate"),
    "frozen pass": (forward, "_activations_of_rows"),
    "frozen pass and writing": (ActivationFile, "write"),
}
STEPS = {  # what is called at the beginning of each step, or of each batch of the frozen pass
    "adapt": (Trainer, "_set_learning_rate"),
    "embed": (forward, "_activations_of_rows"),
    "train": (Trainer, "_set_learning_rate"),
}
# steps
WARM = 3
TIMED = 5
PROFILED = 5
TOP = 12  # operations that are shown
NOTES = """\
How to read it. Launches a step x 5 to 10 microseconds is what the CPU needs to start a step's work;
where that is about the milliseconds of a step, and the GPU is busy for a small share of them, the
stage waits for launches. Look at `compiled` beside `one-shard`. Not tried yet: what starts all of a
step at once, torch.compile(mode="reduce-overhead") or a torch.cuda.CUDAGraph of a shard (all full
shards have one shape). Waits in every step are copies to or from the GPU that block. `fitting
probes` is scikit-learn on one CPU core. `frozen pass and writing` minus `frozen pass` is the disk:
overlap the two if it is long.
"""


class StepsDoneError(Exception):
    """The steps to look at are done; the stage need not end."""


class StepProfile:
    """Times some steps of a stage, profiles the next ones, and ends the stage.

    Attributes:
        milliseconds: of a step without the profiler.
    """

    def __init__(self) -> None:
        self.ticks = 0
        self.milliseconds = 0.0
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(activities=activities)

    def tick(self) -> None:
        """A step begins."""
        if self.ticks == WARM:
            self.start = now()
        if self.ticks == WARM + TIMED:
            self.milliseconds = (now() - self.start) * 1000 / TIMED
            self.profiler.start()
        if self.ticks == WARM + TIMED + PROFILED:
            now()  # until the GPU is done
            self.profiler.stop()
            raise StepsDoneError
        self.ticks += 1

    def measures(self) -> dict[str, float]:
        """What stands in the table, by its name, for each step."""
        averages = self.profiler.key_averages()
        found = {"ms a step": self.milliseconds}
        found["aten operations a step"] = self._count(averages, "aten::")
        if not torch.cuda.is_available():
            return found
        on_gpu = [row for row in averages if row.device_type == DeviceType.CUDA]
        busy = sum(row.self_device_time_total for row in on_gpu) / 1000 / PROFILED
        found["launches a step"] = self._count(averages, "cudaLaunch", "cuLaunch")
        found["copies a step"] = self._count(averages, "cudaMemcpy")
        found["waits a step"] = self._count(averages, "cudaStreamSync", "cudaEventSync")
        found["ms the GPU is busy a step"] = busy
        found["share of the step the GPU is busy"] = busy / self.milliseconds
        return found

    def _count(self, averages, *beginnings) -> float:
        return sum(row.count for row in averages if row.key.startswith(beginnings)) / PROFILED

    def top(self) -> str:
        """The operations that take most time of the CPU, and of the GPU."""
        orders = ["self_cpu_time_total"]
        if torch.cuda.is_available():
            orders.append("self_device_time_total")
        averages = self.profiler.key_averages()
        tables = []
        for order in orders:
            tables.append(averages.table(order, row_limit=TOP, max_name_column_width=60))
        return "\n".join(tables)


def now() -> float:
    """Seconds, when the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def timed_parts(seconds):
    """Inside this context the seconds of PARTS are added to `seconds`."""
    with ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            function = getattr(owner, name)

            def timed(*args, part=part, function=function, **options):
                start = now()
                result = function(*args, **options)
                seconds[part] = seconds.get(part, 0.0) + now() - start
                return result

            stack.enter_context(patch.object(owner, name, timed))
        yield


@contextmanager
def compiled_blocks():
    """Inside this context the blocks of every split model are compiled."""
    make = SplitModel.__init__

    def make_compiled(self, model, *others):
        make(self, model, *others)
        for block in model.blocks:
            block.compile()

    cls_of_block = torch.compile(boundary.cls_of_block)
    with (
        patch.object(SplitModel, "__init__", make_compiled),
        patch.object(boundary, "cls_of_block", cls_of_block),
    ):
        yield


def profile_steps(folder, stage) -> StepProfile | None:
    """Some steps of a stage; None if it has too few."""
    steps = StepProfile()
    owner, name = STEPS[stage]
    function = getattr(owner, name)

    def ticking(*args):
        steps.tick()
        return function(*args)

    with patch.object(owner, name, ticking), suppress(StepsDoneError):
        run_stages(folder, stage)
        return None
    return steps


def splits_of(images):
    """The first images of data/subset, as many to train on as are wanted."""
    sizes = {"train": images, "val": images, "test": 2 * images}
    splits = {}
    for split, size in sizes.items():
        pixels, labels = read_split(ROOT / "data/subset", split, "images", "labels")
        splits[split] = (pixels[:size], labels[:size])
    return splits


def prepare_way(way, splits, machine, min_steps):
    """The folder of a way, with its parameters.

    Args:
        machine: further changes of params.yaml.
    """
    changes = {section: {**keys} for section, keys in (WAYS[way] | machine).items()}
    changes["adapt"]["min_steps"] = min_steps
    changes["train"]["min_steps"] = min_steps
    classes = read_json(ROOT / "data/subset/dataset.json")["classes"]
    prepare(WORK / way, splits, classes, changes)
    return WORK / way


def measure_stage(way, stage, splits, machine) -> tuple[dict[str, float], str]:
    """What stands in the table, and the profiler's tables."""
    folder = prepare_way(way, splits, machine, min_steps=0)
    parts: dict[str, float] = {}
    start = now()
    with timed_parts(parts):
        cpu_seconds = run_stages(folder, stage)[stage]
    measures = {"seconds": now() - start, "CPU seconds": cpu_seconds}
    measures |= {f"seconds of {part}": seconds for part, seconds in parts.items()}
    if stage not in STEPS:
        return measures, ""
    prepare_way(way, splits, machine, min_steps=WARM + TIMED + PROFILED + 1)
    steps = profile_steps(folder, stage)
    if steps is None:
        return measures, f"{stage} has too few steps to profile\n"
    return measures | steps.measures(), steps.top()


def start_up_seconds(device) -> float:
    """Of a process that imports what a stage does and uses the device."""
    program = f"import timm, sklearn, torch, stages.train; torch.zeros(1, device={device!r})"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    return time.perf_counter() - start


def summary(rows, tops) -> str:
    """The rows as one table of seconds and one of details for each stage, then the notes."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = [f"{rows[0]['device']}, torch {torch.__version__}, {rows[0]['images']} images", ""]
    lines.append(f"{'':50}" + "".join(f"{way:>12}" for way in ways))
    for stage, measure in dict.fromkeys((row["stage"], row["measure"]) for row in rows):
        values = {
            row["way"]: row["value"]
            for row in rows
            if (row["stage"], row["measure"]) == (stage, measure)
        }
        cells = "".join(f"{values.get(way, ''):>12}" for way in ways)
        lines.append(f"{stage + ', ' + measure:50}{cells}")
    lines += ["", NOTES]
    for (way, stage), top in tops.items():
        lines += [f"{stage}, {way}: {PROFILED} steps under the profiler", top]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", help="instead of model.name of params.yaml")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="gpu.csv, gpu.txt")
    args = parser.parse_args()
    out = args.out.resolve()
    on_gpu = args.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    splits = splits_of(args.images)
    machine = {"runtime": {"device": args.device}}
    if args.model:
        machine["model"] = {"name": args.model}
    rows = []
    tops = {}

    def write(way, stage, measures):
        for measure, value in measures.items():
            row = {"device": name, "images": args.images, "way": way, "stage": stage}
            rows.append({**row, "measure": measure, "value": round(value, 3)})
        write_csv(out / "gpu.csv", rows)
        write_text(out / "gpu.txt", summary(rows, tops))

    write(args.ways[0], "start-up", {"seconds": start_up_seconds(args.device)})
    for way in args.ways:
        for stage in args.stages:
            if stage == "attention" and way != "one-shard":  # shards do not change it
                continue
            with compiled_blocks() if way == "compiled" else ExitStack():
                measures, top = measure_stage(way, stage, splits, machine)
            if top:
                tops[way, stage] = top
            write(way, stage, measures)
            print(f"{way}, {stage}: {measures['seconds']:.1f} s", flush=True)
    shutil.rmtree(WORK)
    print((out / "gpu.txt").read_text())


if __name__ == "__main__":
    main()
