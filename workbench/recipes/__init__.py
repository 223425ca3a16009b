"""The stages of training, each one frozen dataclass and one generator of records."""
