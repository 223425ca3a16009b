"""Models on disk: the folder layouts and the sentence-transformers files beside the weights."""
