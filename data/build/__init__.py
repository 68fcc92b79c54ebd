"""What made the embedded model: the corpus generator, the tokenizer, the training and its evaluation."""
