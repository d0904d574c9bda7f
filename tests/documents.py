"""The documents, and the commands in them.

A block of ```sh is run as it stands, by tests/test_readme.py. One of ```bash names other machines;
a test runs it with names of this one put in. Other blocks hold no commands.
"""

import re

from tests.project import ROOT

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in sorted(ROOT.glob("docs/*.md"))
}
DOCUMENTS["README.md"] = (ROOT / "README.md").read_text("utf-8")


def blocks(text, *languages):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def commands(text):
    """Lines of the ```sh blocks, without comments; each after what its block exports."""
    found = []
    for block in blocks(text, "sh"):
        exports = ""
        for line in block.splitlines():
            line = re.sub(r"(^|\s+)#.*", "", line).strip()
            if line.startswith("export "):
                exports += f"{line}; "
            elif line:
                found.append(exports + line)
    return found


def template(command, names):
    """Lines of the one ```bash block with `command`, each of `names` replaced by what it is called
    here."""
    (block,) = (
        block for text in DOCUMENTS.values() for block in blocks(text, "bash") if command in block
    )
    for name, here in names.items():
        assert name in block, name
        block = block.replace(name, str(here))
    return [re.sub(r"\s+# .*", "", line) for line in block.splitlines()]
