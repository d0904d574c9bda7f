"""`vit-finetune publish OWNER/NAME`: the trained model on the Hugging Face hub, from where
`timm.create_model("hf_hub:OWNER/NAME", pretrained=True)` loads it."""

import argparse
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard
from huggingface_hub.errors import HTTPError

from vit_finetune.comparison.runs import STAGES
from vit_finetune.core.errors import UserError, readable_errors
from vit_finetune.core.files import read_json
from vit_finetune.model.saved import trained_config
from vit_finetune.summary import outdated, read_status

MODEL = Path("models/finetuned")
CARD = "README.md"


def card_with_test_accuracy(text: str, evaluation: dict[str, Any], name: str) -> str:
    """The card of a trained model as it stands on the hub.

    Args:
        text: of the card that `train` wrote.
        evaluation: metrics/evaluation.json of the same run.
        name: OWNER/NAME.
    """
    low, high = evaluation["accuracy_ci95"]
    interval = f"95 % interval [{low:.4f}, {high:.4f}], n = {evaluation['n']:,}"
    row = f"| test accuracy | {evaluation['accuracy']:.4f}, {interval} |"
    text = text.replace("|---|---|\n", f"|---|---|\n{row}\n", 1)
    card = ModelCard(text.replace(f"local-dir:{MODEL}", f"hf_hub:{name}"))
    facts: Any = card.data  # ModelCardData, which the library's types do not say
    (validation,) = facts.eval_results
    test = EvalResult(
        task_type=validation.task_type,
        dataset_type=validation.dataset_type,
        dataset_name=validation.dataset_name,
        dataset_split="test",
        metric_type="accuracy",
        metric_value=evaluation["accuracy"],
        metric_name=f"test accuracy, {interval}",
    )
    facts.eval_results = [test, validation]
    return str(card)


def publish(name: str, private: bool) -> str:
    """Upload models/finetuned with the test accuracy of its run, in one commit.

    Returns:
        The address of the commit.

    Raises:
        UserError: there is no trained model, its run is not finished, or the hub refuses.
    """
    trained_config(MODEL)
    changed = [stage for stage in outdated(read_status()) if stage in STAGES]
    if changed:
        raise UserError(
            f"the test accuracy may be that of another model: {', '.join(changed)} changed since "
            "the run; run dvc repro first"
        )
    evaluation = read_json("metrics/evaluation.json")
    files: dict[str, bytes | str] = {path.name: str(path) for path in sorted(MODEL.iterdir())}
    card = (MODEL / CARD).read_text("utf-8")
    files[CARD] = card_with_test_accuracy(card, evaluation, name).encode()
    operations = [
        CommitOperationAdd(path_in_repo=file, path_or_fileobj=content)
        for file, content in files.items()
    ]
    hub = HfApi()
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        commit = hub.create_commit(name, operations, commit_message="Upload the trained model")
    except (OSError, HTTPError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the hub did not take {name}: {reason}; log in with `hf auth login`, and use a name "
            "OWNER/NAME that is yours"
        ) from error
    return str(commit.commit_url)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vit-finetune publish", description=__doc__)
    parser.add_argument("name", metavar="OWNER/NAME", help="of the model on the hub")
    parser.add_argument("--private", action="store_true", help="visible to its owner alone")
    return parser


if __name__ == "__main__":
    args = make_parser().parse_args()
    with readable_errors("publish"):
        address = publish(args.name, args.private)
        print(f"publish: {address}; timm loads it as hf_hub:{args.name}")
