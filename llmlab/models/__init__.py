"""Decoders in Flax NNX: token ids in, hidden states and logits out. This room knows no text, files or sampling."""
