"""The playground: widgets for a prompt, every sampling parameter, the next-token distribution and the answer."""
