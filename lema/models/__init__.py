"""Models in Hugging Face format: their weights and attention, answering, training, merging; and the tiny backbone."""
