"""The stages, run as `python -m stages.<name>` from the project's root.

This checkout's src/ goes first on the path, whatever is installed: DVC runs experiments in copies
of the project, and each must run its own code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vit_finetune.core.device import share_cores
from vit_finetune.core.process import end_with_dvc

end_with_dvc()
share_cores()
