"""The playground's widgets; the only room with ipywidgets."""
