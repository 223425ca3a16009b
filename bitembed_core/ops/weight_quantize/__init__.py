"""Ternary weights (Eq 1). The reference is `bitembed_core.quantizers.quantize_weight`."""
