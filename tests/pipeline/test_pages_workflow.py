"""The workflow that publishes the pages of a run: what can be tried without GitHub."""

import re
import subprocess

from tests.graph import PACKAGE
from tests.project import ROOT
from vit_finetune.params import read_yaml

PAGES = {  # where a page lies -> its template
    "report.html": "report/page.html",
    "attention/index.html": "attention/page.html",
    "review.html": "review/page.html",
}


def test_every_link_from_a_published_page_leads_to_another(tmp_path):
    steps = read_yaml(ROOT / ".github/workflows/pages.yml")["jobs"]["pages"]["steps"]
    (gather,) = [step["run"] for step in steps if step.get("name") == "Gather the pages"]
    for page, template in PAGES.items():
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_bytes((PACKAGE / template).read_bytes())
    subprocess.run(["bash", "-e", "-c", gather], cwd=tmp_path, check=True)
    site = tmp_path / "site"
    pages = sorted(site.rglob("*.html"))
    assert [page.relative_to(site).as_posix() for page in pages] == sorted([*PAGES, "index.html"])
    links = 0
    for page in pages:
        for link in re.findall(r'href="([^#"{]+)"', page.read_text("utf-8")):
            links += 1
            assert (page.parent / link).is_file(), f"{page.name}: {link}"
    assert links >= 3
    artifact = [step["with"]["path"] for step in steps if "upload-pages" in step.get("uses", "")]
    assert artifact == ["site"]
