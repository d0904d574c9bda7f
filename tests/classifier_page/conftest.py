"""What the tests of the page that classifies share."""

import pytest

from tests.conftest import locked


@pytest.fixture(scope="session")
def runtime_file(run_folder):
    """The package of ONNX Runtime Web, kept or fetched; skips where it cannot be had."""
    from vit_finetune.classifier_page.runtime import FILE_NAME, fetch_runtime, kept_runtime
    from vit_finetune.core.errors import UserError

    if kept_runtime().exists():
        return kept_runtime()
    file = run_folder / FILE_NAME
    with locked(run_folder / "runtime.lock"):
        if not file.exists():
            try:
                fetch_runtime(file)
            except UserError as error:
                pytest.skip(str(error))
    return file
