"""Draw README's picture, docs/run.png and docs/run-dark.png: the top of a real run's report.

    python -m tinyllm.train && python -m benchmarks.picture checkpoints

The report is drawn again and photographed by a headless Chromium, in the light and in the dark.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tinyllm import report

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = {"run.png": 1, "run-dark.png": 0}  # name -> Chromium's number of the colour scheme
WIDTH, HEIGHT, SCALE = 980, 922, 1.1  # of the window: down to the learning rate; README shows it at 800
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)  # its path


def photograph(page: Path, out: Path, scheme: int) -> None:
    """Write what a window shows of the page to `out`, a PNG. Raises RuntimeError without a browser."""
    if BROWSER is None:
        raise RuntimeError(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}",
             f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{HEIGHT}",
             f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={out}", page.as_uri()],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip


def main() -> int:
    """Draw both pictures of the run that is named."""
    parser = argparse.ArgumentParser("python -m benchmarks.picture", description=__doc__.split("\n")[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="directory of a finished run")
    page = report.write_report(parser.parse_args().run.resolve())
    for name, scheme in PICTURES.items():
        photograph(page, DOCS / name, scheme)
        print(f"{DOCS / name}: {(DOCS / name).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
