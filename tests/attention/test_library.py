"""The attention part as a library: the lines of the how-to, on a model that this pipeline did not
train."""

import timm
import torch

from tests.documents import DOCUMENTS, blocks
from tests.small_vits import build
from vit_finetune.attention import METHODS, MapMaker


def test_the_lines_of_the_how_to_judge_the_maps_of_any_model_and_one_of_ones_own(
    monkeypatch, capsys
):
    model = build("deit_tiny_distilled_patch16_224", num_classes=5)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: model)
    (lines,) = (
        block
        for block in blocks(DOCUMENTS["docs/how-to.md"], "python")
        if "deletion_insertion" in block
    )
    names: dict = {}
    exec(lines, names)
    printed = dict(line.split(" Interval") for line in capsys.readouterr().out.splitlines())
    assert list(printed) == [*METHODS, "mine", "centre", "random"]
    assert "mean=0.0, low=0.0, high=0.0, n=8" in printed["centre"]
    with torch.no_grad():
        assert torch.equal(names["classes"], model(names["pixels"]).argmax(dim=1))
    again = MapMaker(model).maps(names["pixels"], names["classes"])
    assert torch.equal(names["maps"]["relevance"], again["relevance"])
    found = names["curves"]["mine"].score(names["curves"]["centre"])
    assert found.low < found.mean < found.high
