"""synthesize: traces from a teacher, every code block executed again."""
