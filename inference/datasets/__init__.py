"""The layouts of the evaluation sets: where their files are, and how to read them."""
