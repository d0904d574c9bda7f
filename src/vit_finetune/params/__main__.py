"""`python -m vit_finetune.params`: check params.yaml before DVC removes the outputs of a stage that
would fail."""

from vit_finetune.core.errors import readable_errors
from vit_finetune.params import read_params

if __name__ == "__main__":
    with readable_errors("params"):
        read_params()
