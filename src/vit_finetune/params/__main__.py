"""`python -m vit_finetune.params`: check params.yaml before DVC removes the outputs of a stage that would fail."""

import sys

from vit_finetune.params import read_params

if __name__ == "__main__":
    try:
        read_params()
    except ValueError as error:
        sys.exit(str(error))
