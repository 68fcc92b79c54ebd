"""HTML and terminal output: the token strip, bars, the banner, progress; the only room with IPython and templates."""
