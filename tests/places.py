"""Where the checkout and what lies beside it are."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_models"
ZOO = ROOT.parent / "shared" / "zoo"  # exports with ground truth: a user has none
