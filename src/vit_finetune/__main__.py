"""`vit-finetune TOOL ...`, which is `python -m vit_finetune.TOOL ...`."""

import runpy
import sys
from importlib.metadata import version

TOOLS = {  # each is the module of that name
    "A run": {
        "params": "check params.yaml without running anything",
        "own_images": "run the pipeline on a folder of images",
        "profiles": "run the pipeline with profiles/NAME.yaml, in a copy of the project",
        "summary": "the headline numbers of the run in the work tree",
        "open": "the report and the attention page of the newest run, in a browser",
    },
    "Runs in git": {
        "compare": "which test images were gained and lost, and whether it is chance",
        "mistakes": "a page of every wrong test image",
    },
    "The trained model": {
        "predict": "classify image files, draw what speaks for a class",
        "export": "write it as ONNX, or as an HTML page that classifies images",
        "keep": "copy it to pretrained/NAME, to start another run from",
        "publish": "put it on the Hugging Face hub",
    },
}
EXAMPLES = """\
Examples:
  vit-finetune predict photo.jpg
  vit-finetune predict --at-least 0.99 --page predictions.html photos/
  vit-finetune compare HEAD
  vit-finetune predict --help         what a tool can do

The pipeline itself is DVC's: dvc repro runs it, dvc exp run -S train.lr=0.001 tries another value.
Type the tools in the root of the project; predict and export also work elsewhere, with --model."""


def help_text() -> str:
    lines = ["usage: vit-finetune TOOL ...", ""]
    for title, tools in TOOLS.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<12}{purpose}" for name, purpose in tools.items()]
        lines.append("")
    return "\n".join([*lines, EXAMPLES])


def main() -> None:
    names = [name for tools in TOOLS.values() for name in tools]
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(help_text())
        return
    name = sys.argv[1]
    if name == "--version":
        print(f"vit-finetune {version('vit-finetune')}")
        return
    if name not in names:
        print(
            f"vit-finetune: {name} is not a tool; the tools are {', '.join(names)}", file=sys.stderr
        )
        sys.exit(2)
    del sys.argv[1]  # the tool parses what follows
    runpy.run_module(f"vit_finetune.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
