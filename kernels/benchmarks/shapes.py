"""The linear layers of the models that benchmarks measure."""

SHAPES = {  # (out, in)
    "Gemma3 query": (1024, 640),
    "Gemma3 key, value": (256, 640),
    "Gemma3 attention output": (640, 1024),
    "Gemma3 gate, up": (2048, 640),
    "Gemma3 down": (640, 2048),
    "Qwen3 query": (2048, 1024),
    "Qwen3 key, value": (1024, 1024),
    "Qwen3 attention output": (1024, 2048),
    "Qwen3 gate, up": (3072, 1024),
    "Qwen3 down": (1024, 3072),
    "MiniLM attention": (384, 384),
    "MiniLM up": (1536, 384),
    "MiniLM down": (384, 1536),
}
