"""Whether pretrained weights are on this machine or within reach, asked before anything waits for
them: the hub's own client tries for more than a minute."""

import urllib.error
import urllib.request
from pathlib import Path

import timm

from vit_finetune.core.errors import UserError

PATIENCE = 5.0  # seconds without an answer
WAYS_ON = (
    "either set HF_HOME to a folder with the hub's cache, or copy the weights to "
    "pretrained/<name>/ and set model.name to local-dir:pretrained/<name>, or set "
    "model.pretrained to false; `make demo` needs no network"
)


def require_weights(name: str) -> None:
    """UserError if the weights of a timm model are neither in the cache of the Hugging Face hub nor
    can the hub be reached. What else is wrong with the name, timm says."""
    from huggingface_hub import constants

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # unknown weights
        return
    if config is None or not config.hf_hub_id or constants.HF_HUB_OFFLINE:
        return
    folder = Path(constants.HF_HUB_CACHE) / f"models--{config.hf_hub_id.replace('/', '--')}"
    if (folder / "snapshots").is_dir():
        return
    reason = unreachable(constants.ENDPOINT)
    if reason:
        raise UserError(
            f"the weights of {name} are not on this machine, and {constants.ENDPOINT} cannot be "
            f"reached ({reason}); {WAYS_ON}"
        )


def unreachable(address: str) -> str | None:
    """Why no server answers at an address; None if one does."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return None  # an answer
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None
