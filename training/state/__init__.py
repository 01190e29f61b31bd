"""State of a run outside the loop: checkpoints, metrics, pictures, messages, the MLflow run."""
