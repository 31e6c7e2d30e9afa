"""The program `hdrfleet`, and `python -m jobs`."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C ends the program without a traceback also while its modules are read."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # a shell may have said that it is to be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from jobs.cli import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
