"""What the workbench can fetch: models, training text, evaluation tasks, each with origin and licence."""
