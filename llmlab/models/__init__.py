"""Decoders in Flax NNX: arrays in, arrays out; no text, no files, no sampling."""
