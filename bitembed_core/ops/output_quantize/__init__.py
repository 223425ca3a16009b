"""Embeddings rounded to several precisions. The reference is `bitembed_core.storage.output_quantizer`."""
