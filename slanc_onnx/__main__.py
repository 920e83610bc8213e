"""`python -m slanc_onnx`."""

import sys

from slanc_onnx.cli import main

sys.exit(main())
