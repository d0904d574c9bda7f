"""The documents, and the commands in them.

Blocks of ```sh are run as they stand by tests/pipeline/test_documents.py. Blocks of ```bash name
other machines; tests run them with names of this one put in. Other blocks hold no commands.
"""

import re

from tests.project import ROOT

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}


def blocks(text, *languages):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for language, block in fenced if language in languages]


def commands(text):
    """Lines of the ```sh blocks, without comments; each after what its block exports."""
    lines = []
    for block in blocks(text, "sh"):
        exports = ""
        for line in block.splitlines():
            command = re.sub(r"(^|\s+)#.*", "", line).strip()
            if command.startswith("export "):
                exports += f"{command}; "
            elif command:
                lines.append(exports + command)
    return lines


def template(command, names):
    """Lines of the one ```bash block that contains `command`, with each of `names` replaced by its
    value."""
    every_block = [block for text in DOCUMENTS.values() for block in blocks(text, "bash")]
    (block,) = [block for block in every_block if command in block]
    for name, value in names.items():
        assert name in block, name
        block = block.replace(name, str(value))
    return [re.sub(r"\s+# .*", "", line) for line in block.splitlines()]
