"""Key-value caches: objects that write, mask and attend, so that a decoder knows neither their layout nor the mask."""
