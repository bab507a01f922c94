"""Export weights and write releases with a model card."""
