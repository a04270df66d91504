"""Trained networks for others: files of several formats, what is known of them, the Hugging Face Hub."""
