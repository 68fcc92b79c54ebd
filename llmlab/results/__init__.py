"""What a user holds: `Result`, `Stream`, `NextToken` and `NextTokenGrid`."""
