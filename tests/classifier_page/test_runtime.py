"""ONNX Runtime Web: fetched once, checked, and one line where it cannot be had."""

import sys

import pytest

from vit_finetune.classifier_page import runtime as module
from vit_finetune.classifier_page.runtime import (
    fetch_runtime,
    kept_runtime,
    read_runtime,
    with_a_base,
    with_global,
)
from vit_finetune.core.errors import UserError

WAY_OUT = (
    r"`npm pack onnxruntime-web@[\d.]+` writes the file, also on another machine; "
    r"name it: --runtime FILE"
)


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Sets the only program on the path: npm, as a script in Python."""

    def install(code):
        file = tmp_path / "bin/npm"
        file.parent.mkdir()
        file.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{code}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(file.parent))

    return install


def test_without_npm_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"npm, which fetches .*, is not installed; {WAY_OUT}"):
        fetch_runtime(tmp_path / "kept.tgz")


def test_what_npm_says_is_said_in_one_line(npm, tmp_path):
    npm(
        "print('npm error code EAI_AGAIN\\nnpm error reason: no network\\n"
        "npm error A complete log of this run can be found in: /x', file=sys.stderr); sys.exit(1)"
    )
    message = f"could not fetch .*: code EAI_AGAIN reason: no network; {WAY_OUT}"
    with pytest.raises(UserError, match=message):
        fetch_runtime(tmp_path / "kept.tgz")
    assert not (tmp_path / "kept.tgz").exists()


def test_a_package_of_another_hash_is_not_kept(npm, tmp_path):
    npm(f"Path({module.FILE_NAME!r}).write_bytes(b'other')")
    with pytest.raises(UserError, match=f"is not onnxruntime-web.*SHA-512 is .*; {WAY_OUT}"):
        fetch_runtime(tmp_path / "cache/kept.tgz")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_named_file_that_is_another_is_refused(tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"other")
    with pytest.raises(UserError, match=r"other\.tgz is not onnxruntime-web"):
        read_runtime(tmp_path / "other.tgz")


def test_the_package_is_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_runtime().parent == tmp_path / "vit-finetune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept_runtime().parent == tmp_path / ".cache/vit-finetune"


def test_the_exports_of_a_module_become_properties_of_a_global():
    code = "var a=1,b={};export{a as one,b as default};\n//# sourceMappingURL=x.map\n"
    assert with_global(code) == "var a=1,b={};globalThis.ort={one:a,default:b};\n"


def test_a_module_completes_its_address_by_that_of_the_page_which_firefox_has_for_files():
    code = 'origin=typeof location>"u"?void 0:location.origin,base=new URL(file,origin)'
    assert with_a_base(code) == code.replace("location.origin", "location.href")
