"""What a process holds and hands to its user: the engine, the runner and the handles of its batches."""
