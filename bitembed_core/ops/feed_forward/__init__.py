"""`down(activation(gate(x)) * up(x))` with ternary projections: SwiGLU, GeGLU, or plain GELU without a gate."""
