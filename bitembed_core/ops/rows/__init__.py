"""Rows of embedding tables, and the pooled vectors of texts. References: `QuantizedEmbedding`, `pooling.pool`."""
