"""The page that `export FILE.html` writes: a model, what runs it, and what reads images for it."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from vit_finetune.classifier_page.runtime import VERSION, Runtime
from vit_finetune.classifier_page.weights import to_int8
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import readable_size
from vit_finetune.pages.render import pack, render

LARGEST = 500_000_000  # characters of the packed model: a text in Chromium has at most 2^29


def classifier_page(model: Any, facts: Mapping[str, Any], runtime: Runtime) -> str:
    """The page as text.

    Args:
        model: onnx.ModelProto, `pixels` (B, 3, h, w) -> `logits` (B, K), in float32. Its weights
            are in 8 bits afterwards.
        facts: `classes`, and how an image file becomes `pixels`, as the metadata of an exported
            ONNX file say it.

    Raises:
        UserError: the model is too large for a page.
    """
    to_int8(model.graph)
    packed = pack(model.SerializeToString())
    if len(packed) > LARGEST:
        raise UserError(
            f"the model would take {readable_size(len(packed))} of the page, and a browser reads "
            f"at most {readable_size(LARGEST)}; name a FILE.onnx to write it as ONNX"
        )
    return render(
        "classifier_page/page.html",
        facts=facts,
        model=packed,
        runtime=Markup(runtime.script),
        version=VERSION,
        wasm=pack(runtime.wasm),
    )
