r"""Takes the picture of a report for the README, with Chromium (Debian: apt install chromium).

python docs/report_picture.py report.html docs/images/report.png

docs/images/report.png shows the report that the commands of the README write.
"""

import pathlib
import shutil
import subprocess
import sys

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WIDTH, _HEIGHT = 1200, 880  # pixels: the result and the learning curves; no item titles
_MAX_BYTES = 250_000


def take_picture(address: str, picture: pathlib.Path) -> None:
    """Writes the top of a page as PNG. Exits with a message if there is no browser or the picture is too large."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        sys.exit(f"error: A browser is needed. Received: none of {', '.join(_BROWSERS)}. Fix: install Chromium")
    picture.parent.mkdir(parents=True, exist_ok=True)
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={_WIDTH},{_HEIGHT}",
    ]
    subprocess.run([browser, *flags, f"--screenshot={picture.resolve()}", address], capture_output=True, check=True)
    if (written := picture.stat().st_size) > _MAX_BYTES:
        sys.exit(f"error: The picture must have at most {_MAX_BYTES:,} bytes. Received: {written:,}")


if __name__ == "__main__":
    take_picture(pathlib.Path(sys.argv[1]).resolve(strict=True).as_uri(), pathlib.Path(sys.argv[2]))
