"""What a run keeps: checkpoints, metrics, pictures, messages; and how it resumes from them."""
