"""What a generation may be: JSON of a schema, tool calls in a family's own syntax, as masks over the vocabulary."""
