"""LoRA adapters as peft saves them: their configuration, their tensors, and what they change of a decoder."""
