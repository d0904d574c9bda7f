"""`python benchmarks/many_images.py 2000 20000`: memory and rate of `download` and `subset` over
generated JPEG files.

A row for each number of files: seconds of both stages, images a second of `download` and of Pillow
alone on as many threads, and the peak of memory that is not mapped from files (RssAnon of Linux,
read every 20 ms) in MB.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from vit_finetune.core.files import write_json
from vit_finetune.data.image_files import fit_image, open_image
from vit_finetune.params import read_yaml

ROOT = Path(__file__).resolve().parents[1]
SIDE = 128


def run_stage(name: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak of anonymous memory in MB of a stage in a folder."""
    start = time.monotonic()
    peak = 0
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "VIT_QUIET": "1"}
    process = subprocess.Popen([sys.executable, "-m", "stages", name], cwd=folder, env=environment)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        for line in status.splitlines():
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - start, peak / 1000


def pillow_alone(files: list[Path]) -> float:
    """Images a second: opened and fitted as `download` does, kept nowhere."""
    start = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda path: fit_image(open_image(path), (SIDE, SIDE), "crop"), files):
            pass
    return len(files) / (time.monotonic() - start)


def measure(count: int) -> None:
    folder = Path(tempfile.mkdtemp(dir=ROOT.parent))
    try:
        subprocess.run(
            [sys.executable, ROOT / "tools/write_jpegs.py", folder / "data/images", str(count)],
            check=True,
        )
        params = read_yaml(ROOT / "params.yaml")
        params["data"] |= {"name": "folder", "image_size": SIDE}
        params["subset"] |= {"train_size": "all", "val_size": 100}
        write_json(folder / "params.yaml", params)  # JSON is YAML
        files = sorted((folder / "data/images").rglob("*.jpg"))
        alone = pillow_alone(files[:: max(1, count // 2000)])
        download, download_peak = run_stage("download", folder)
        subset, subset_peak = run_stage("subset", folder)
        print(
            f"{count:>7} files: download {download:.1f} s, {count / download:.0f} a second "
            f"(Pillow alone {alone:.0f}), peak {download_peak:.0f} MB; "
            f"subset {subset:.1f} s, peak {subset_peak:.0f} MB",
            flush=True,
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        measure(int(argument))
