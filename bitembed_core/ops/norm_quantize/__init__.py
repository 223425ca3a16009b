"""RMSNorm and per-token int8 quantization (Eq 3, then Eq 2). The reference is `ternary_linear/blocked.py`."""
