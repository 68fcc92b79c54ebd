"""`llmlab bench`: what this device can do, and what share of that each kind of work reaches."""
