"""RMSNorm of a projection's input (SubLN, Eq 3), in float32: `weight * x / sqrt(mean(x^2) + eps)`."""

from bitembed_core.ops.rms_norm.two_pass import rms_norm

__all__ = ["rms_norm"]
