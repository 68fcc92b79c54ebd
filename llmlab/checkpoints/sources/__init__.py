"""Where the tensors of a checkpoint are read from: files, and formats that are dequantised while they are read."""
