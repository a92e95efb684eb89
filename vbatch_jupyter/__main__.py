"""``python -m vbatch_jupyter``: see `cli`."""

from __future__ import annotations

import sys

from vbatch_jupyter.cli import main

if __name__ == "__main__":
    sys.exit(main())
