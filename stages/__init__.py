"""The scripts of the stages, run as `python -m stages NAME` from the project's root.

This checkout's src/ is put first on the path, whatever is installed: DVC runs experiments in copies
of the project, and each must run its own code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
