"""OpenAI's shapes and rules, pure: no file, no clock, no engine is touched here."""
