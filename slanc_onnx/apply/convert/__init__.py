"""A model in FP32 becomes one in FP16 or BF16.

Takes a folded model. Cos and Sin of positions become tables first: no narrow format holds the angle
of a distant position. What nobody reads any more is taken out.
"""
