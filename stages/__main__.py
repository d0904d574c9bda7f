"""`python -m stages NAME`: run one stage in the folder where this is typed.

No stage depends on this file in dvc.yaml: nothing here changes what a stage computes.
"""

import sys

try:
    from vit_finetune.stage import Script, run
except ModuleNotFoundError as error:
    if str(error.name).startswith("vit_finetune"):
        raise
    sys.exit(
        f"stages: {sys.executable} has no {error.name}: activate the environment "
        "(. .venv/bin/activate), or run make repro"
    )

SCRIPTS = (
    Script("download", memory_key="data.image_size"),
    Script("subset"),
    Script("adapt", memory_key="adapt.batch_size", parallel=True),
    Script("embed", memory_key="embed.batch_size", parallel=True),
    Script("review"),
    Script("train", memory_key="train.batch_size", parallel=True),
    Script("evaluate"),
    Script("attention", memory_key="attention.batch_size"),
    Script("report"),
)


def main(arguments: list[str]) -> None:
    scripts = {script.name: script for script in SCRIPTS}
    names = ", ".join(scripts)
    if len(arguments) != 1:
        sys.exit(f"stages: name one stage: python -m stages NAME; the stages are {names}")
    (name,) = arguments
    if name not in scripts:
        sys.exit(f"stages: {name} is not a stage; the stages are {names}")
    run(scripts[name])


if __name__ == "__main__":
    main(sys.argv[1:])
