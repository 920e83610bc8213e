"""A model in FP32 becomes one in FP16 or BF16.

Takes a folded model; angles of positions become tables first, for no narrow format holds an angle
of a distant position.
"""
