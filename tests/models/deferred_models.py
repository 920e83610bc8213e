"""Norms of which products are divided, and not the row, as nodes of `merge_models.model`."""

ROOT = """
    sq = Mul(rows, rows)
    ms = ReduceMean<axes = [-1]>(sq)
    sum = Add(ms, eps)
    root = Sqrt(sum)
"""
TWO = "p = MatMul(rows, w) q = MatMul(rows, w2)"
WRITTEN = {
    "Div": f"{ROOT}{TWO} [n] u = Div(p, root) v = Div(q, root) y = Add(u, v)",
    "Mul": f"{ROOT} r = Reciprocal(root) {TWO} [n] u = Mul(p, r) v = Mul(r, q) y = Add(u, v)",
    "products after the root": f"{ROOT} p = MatMul(rows, w) [n] u = Div(p, root)"
    " q = MatMul(rows, w2) v = Div(q, root) y = Add(u, v)",
}
