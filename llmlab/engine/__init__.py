"""Token ids in, token ids and their figures out: slots, prefill, decoding in chunks, one driver. Never text."""
