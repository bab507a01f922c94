"""What a tokenizer is worth: metrics of each image, of the set, and how sure they are."""
