"""The versions that stages record."""

from tests.project import ROOT
from vit_finetune.core import versions
from vit_finetune.report.page import pinned_versions


def test_machines_with_and_without_a_gpu_record_the_same_versions(monkeypatch):
    recorded = []
    for build in ("2.9.0+cpu", "2.9.0+cu130", "2.9.0"):
        monkeypatch.setattr(versions, "version", lambda name, build=build: build)
        recorded.append(versions.released_versions())
    assert recorded[0] == recorded[1] == recorded[2]
    assert set(recorded[0].values()) == {"2.9.0"}


def test_every_library_is_pinned_by_the_lock():
    pins = pinned_versions((ROOT / "requirements.lock").read_text("utf-8"))
    assert set(versions.released_versions()) <= set(pins)
