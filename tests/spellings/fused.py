"""The ops that are a whole norm. Those that add their inputs first are in test_fused.py."""

from functools import partial

from tests.spellings.spelling import Spelling

_rms = partial(Spelling, "rms")
_layer = partial(Spelling, "layer", beta=True)

_CENTRED = "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu)"
_E = "epsilon: float = 1e-5"

FUSED = [
    _layer("LayerNormalization", f"y = LayerNormalization<{_E}>(x, g, b)", opset=17),
    _layer(
        "LayerNormalization without beta",
        f"y = LayerNormalization<axis = -1, stash_type = 1, {_E}>(x, g)",
        opset=17,
        beta=False,
    ),
    _layer(
        "LayerNormalization over the last axis by its number, epsilon left out",
        "y = LayerNormalization<axis = 2>(x, g, b)",
        opset=17,
    ),
    _layer("LayerNormalization below opset 17", f"y = LayerNormalization<{_E}>(x, g, b)", opset=14),
    _layer(
        "LayerNormalization, constants from nodes",
        "w = Constant<value = float[8] {0.5, -1, 2, 3, 0.25, -1.5, 1, 0.75}>() "
        f"y = LayerNormalization<{_E}>(x, w, b)",
        opset=17,
    ),
    _rms("RMSNormalization", f"y = RMSNormalization<axis = -1, {_E}>(x, g)", opset=23),
    _rms("RMSNormalization, epsilon left out", "y = RMSNormalization(x, g)", opset=23),
    _rms(
        "RMSNormalization, gamma as Add(w, 1)",
        f"w = Sub(g, one) k = Add(w, one) y = RMSNormalization<{_E}>(x, k)",
        opset=23,
    ),
    _layer(
        "RMSNormalization of Sub(x, ReduceMean(x))",
        f"mu = ReduceMean(x, last) c = Sub(x, mu) y = RMSNormalization<{_E}>(c, g)",
        opset=23,
        beta=False,
    ),
    _rms(
        "SimplifiedLayerNormalization",
        f"y = SimplifiedLayerNormalization<axis = -1, stash_type = 1, {_E}>(x, g)",
    ),
    _layer(
        "SimplifiedLayerNormalization of Sub(x, ReduceMean(x))",
        f"{_CENTRED} y = SimplifiedLayerNormalization<axis = -1, stash_type = 1, {_E}>(c, g)",
        beta=False,
    ),
]
