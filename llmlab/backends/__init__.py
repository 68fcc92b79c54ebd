"""Who answers a request: the engine in this process, or somebody else's endpoint. Requests become ids here alone."""
