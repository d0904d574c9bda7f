"""`python -m vit_finetune.summary`: the headline numbers of the run in the work tree, and where to look."""

from vit_finetune.core.errors import readable_errors
from vit_finetune.core.files import read_json
from vit_finetune.report.headline import headline, table, warnings_of

WHERE = (
    ("metrics", "dvc metrics show"),
    ("report", "report.html"),
    ("attention", "attention/index.html"),
    ("plots", "dvc plots show"),
    ("what changed", "dvc params diff, dvc metrics diff, dvc plots diff"),
)

if __name__ == "__main__":
    with readable_errors("summary"):
        metrics = {name: read_json(f"metrics/{name}.json") for name in ("train", "evaluation", "attention")}
        signs = "".join(f"warning: {sign}\n" for sign in warnings_of(metrics))
        print(f"\n{table(headline(metrics))}\n{signs}\n{table(list(WHERE))}")
