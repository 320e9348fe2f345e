"""Reserved for files: chunks, the bucket index, repair; nothing of it exists yet."""
