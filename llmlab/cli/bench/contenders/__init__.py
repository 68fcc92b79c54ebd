"""Programs that are compared by `llmlab bench --peers`, each run in a process of its own and imported by nothing.

A contender is started with a checkpoint folder, prints "ready" when the model is loaded, and then, for each line of
JSON that it reads, generates what the line asks for and prints "took" and the seconds.
"""
