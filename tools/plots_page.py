"""`python tools/plots_page.py`: the page of `dvc plots` with its libraries inside.

It is .dvc/plots/page.html, which asks the network for them, made complete, so that a page that
`dvc plots` writes needs no network and can be moved. The configuration of this clone then names it.
"""

import re
import subprocess
import sys
from pathlib import Path

import vl_convert

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vit_finetune.charts.render import VEGA_LITE
from vit_finetune.core.files import write_text

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".dvc/plots"
LIBRARIES = re.compile("<!-- libraries.*<!-- /libraries -->", re.DOTALL)


def main() -> None:
    script = f"<script>{vl_convert.javascript_bundle(vl_version=VEGA_LITE)}</script>"
    page = (FOLDER / "page.html").read_text("utf-8")
    page, found = LIBRARIES.subn(lambda match: script, page)
    assert found == 1
    write_text(FOLDER / "offline.html", page)
    setting = ["plots.html_template", "plots/offline.html"]
    command = [sys.executable, "-m", "dvc", "config", "--local", *setting]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
