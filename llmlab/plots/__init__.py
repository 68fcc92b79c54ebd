"""Figures from frames and arrays; the only room with matplotlib."""
