"""Sparsely-gated experts in place of an encoder layer's feed-forward.

Dimension letters in this package: B batch, T time, N frames that are not padding, D model width
(``output_size``), H hidden width (``linear_units``), E experts, K experts chosen per frame
(``top_k``).
"""
