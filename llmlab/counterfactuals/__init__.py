"""What else a completion could have been: completions in, streams or comparisons out; no Result and no Lab."""
