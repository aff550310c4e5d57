"""Takes the picture of docs/explorer.md: the demo's model and a test user, with made-up titles.

make demo
python docs/explorer_picture.py demo_output docs/images/explorer.png

It needs requirements-explore.txt, and Chromium (Debian: apt install chromium).
"""

import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse

from report_picture import take_picture

_FIRST = (
    "Silent", "Golden", "Paper", "Northern", "Hidden", "Second", "Broken", "Little", "Winter", "Electric", "Last",
    "Blue", "Distant", "Crooked", "Early",
)  # fmt: skip
_SECOND = (
    "Harbour", "Garden", "Detective", "Orchestra", "Island", "Letter", "Mountain", "Station", "Circus", "River",
    "Mirror", "Kitchen", "Voyage", "Lighthouse", "Market", "Comet", "Village", "Forest", "Machine", "Carnival",
)  # fmt: skip


def main(output: pathlib.Path, picture: pathlib.Path) -> None:
    """Starts the explorer, and takes the picture of one of its pages."""
    lines = (output / "data/vocabulary.jsonl").read_text(encoding="utf-8").splitlines()
    names = (f"The {first} {second}" for second, first in itertools.product(_SECOND, _FIRST))
    rows = [f"{json.loads(line)['item_id']}\t{name}\n" for line, name in zip(lines, names, strict=False)]
    with tempfile.TemporaryDirectory() as directory:
        titles = pathlib.Path(directory) / "titles.tsv"
        titles.write_text("item_id\ttitle\n" + "".join(rows), encoding="utf-8")
        command = [sys.executable, "explore.py", f"--export_dir={output / 'export'}", f"--data_dir={output / 'data'}"]
        command += [f"--item_titles={titles}", "--port=0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as explorer:
            try:
                address = (explorer.stdout.readline() if explorer.stdout else "").split()[0]
                query = urllib.parse.urlencode({"user": "user-00022", "q": "silent har"})
                take_picture(f"{address}?{query}", picture)
            finally:
                explorer.terminate()
                explorer.wait()


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:3]))
