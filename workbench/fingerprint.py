"""Which weights a number belongs to."""

import hashlib

import torch

from bitembed_core import BitEmbedder


def weights_fingerprint(embedder: BitEmbedder) -> str:
    """The sha256 of a model's tensors by name, type, shape and bytes, wherever they lie."""
    digest = hashlib.sha256()
    tensors = dict(embedder.model.state_dict())
    for name, part in (("output_map", embedder.output_map), ("rotation", embedder.rotation)):
        if part is not None:
            tensors[name] = part.matrix
    if embedder.centre is not None:
        tensors["centre"] = embedder.centre.vector
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()
