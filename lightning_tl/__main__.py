"""``python -m lightning_tl`` is ``lightning-tl``, for where the folder of installed programs is not on the path."""

import sys

from lightning_tl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
