"""Divergence of token relations. The reference is `bitembed_core.losses.relation_divergence`."""
