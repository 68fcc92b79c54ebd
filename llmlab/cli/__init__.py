"""The command line: serve, chat, demo, bench."""
