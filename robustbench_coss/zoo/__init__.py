"""Published checkpoints by name: what is known of them, and their files in a cache."""
