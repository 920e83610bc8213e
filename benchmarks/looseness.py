"""How far above the longest row that can be found the bounds are, block by block.

    python -m benchmarks.looseness [--draws N]

Each block has random weights. The longest row is found by gradient ascent over everything that the
data decides: the earlier norms' outputs at every position, ids, shares.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np

from tests.oracles.blocks import STYLES, Block, Draw, Rng
from tests.oracles.longest_row import _seen, bound_of, longest_row
from tests.oracles.more_blocks import BLOCKS


def ratio(block: Block, rng: Rng) -> float:
    """Bound over the longest row found."""
    bound = bound_of(block)
    found = float(np.linalg.norm(_seen(block, longest_row(block, rng))))
    return math.inf if bound.length is None else bound.length / max(found, 1e-300)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4, help="of weights per block and style")
    options = parser.parse_args(arguments)
    print(f"{'block':28} bound / longest row found: median, largest")
    for title, make in BLOCKS.items():
        found = [
            ratio(make(Draw(np.random.default_rng(seed), style)), np.random.default_rng(seed))
            for style in STYLES
            for seed in range(options.draws)
        ]
        print(f"{title:28} {np.median(found):8.2f} {max(found):8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
