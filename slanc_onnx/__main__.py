"""The command slanc-onnx, and `python -m slanc_onnx`: it starts before its libraries are read."""

from __future__ import annotations

import gc
import signal
import sys

from slanc_onnx._version import __version__
from slanc_onnx.errors import is_no_memory


def main() -> int:
    """Run the command line. Until its modules are read, Ctrl-C ends it as any program, in silence.

    --version is told at once; where it cannot be, the command line says why.
    """
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        try:
            print(f"slanc-onnx {__version__}", flush=True)
            return 0
        except OSError:
            pass
    raises = signal.getsignal(signal.SIGINT)
    if raises is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # what modules hold stays until the end: nothing to look for, now or later
    try:
        from slanc_onnx.cli import main as command
    except (ImportError, MemoryError) as error:
        if not is_no_memory(error):
            raise
        if sys.stderr is not None:
            advice = "Close other programs, or raise the limit (ulimit -v)."
            print(f"ERROR: not enough memory to load the libraries. {advice}", file=sys.stderr)
        return 2
    gc.freeze()
    gc.enable()
    if raises is signal.default_int_handler:
        signal.signal(signal.SIGINT, raises)
    return command()


if __name__ == "__main__":
    sys.exit(main())
