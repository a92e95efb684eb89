"""Install Debian's Chromium, in which the tests in ``tests/ui`` open JupyterLab, if it is missing.

Installing it needs root and apt-get; where that cannot be, a sentence says so and the tests say it again when they skip
themselves. Needs the standard library alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

NAMES = ("chromium", "chromium-browser")
"""What distributions call it."""

MISSING = "Chromium is missing, so JupyterLab is not tested in a browser. Run 'apt-get install chromium' as root."
"""The message if it cannot be installed."""

_APT_GET = ("apt-get", "--quiet", "--option=Acquire::Retries=2", "--option=Acquire::http::Timeout=60")
_TIMEOUT_SECONDS = 900


def find() -> str | None:
    """Return the program's path; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def bring(say: Callable[[str], None], *, is_root: bool) -> str | None:
    """Return the program's path, after installing it where that is needed and possible.

    Parameters
    ----------
    say
        Is given one line at a time.
    is_root
        Whether packages may be installed.
    """
    if (path := find()) is not None:
        return path
    if not is_root or shutil.which("apt-get") is None:
        say(MISSING)
        return None
    say("Installing Chromium with apt-get ...")
    began = time.monotonic()
    for words in (("update",), ("install", "--yes", "--no-install-recommends", "chromium")):
        if (reason := _apt_get(words)) is not None:
            say(f"{MISSING} It was tried, and apt-get {words[0]} failed:\n{reason}")
            return None
    say(f"      done in {time.monotonic() - began:.0f} s")
    return find()


def _apt_get(words: Sequence[str]) -> str | None:
    """Run apt-get; give the end of what it said where it failed."""
    try:
        done = subprocess.run(
            [*_APT_GET, *words],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else "\n".join(done.stdout.splitlines()[-5:])


def main() -> int:
    """Run the command line; give its exit status, which is 0 also where the browser is missing."""
    bring(lambda line: print(line, flush=True), is_root=os.geteuid() == 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
