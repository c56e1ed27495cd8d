"""Sparsely-gated experts in place of an encoder layer's feed-forward.

Dimension letters in this package: B batch, T time, N frames that are not padding, D model width
(``output_size``), De width of the embedding that routers see beside it (``output_size`` of the
``embedding_network``; 0 without one), H hidden width (``linear_units``), E experts, K experts
chosen per frame (``top_k``).
"""
