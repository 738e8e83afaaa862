"""The process that works: its threads, its memory, and where its log lines come from."""
