"""The Responses API, without anything stored: its requests as chat requests, and completions as its answers."""
