"""Runs batches at batch services, such as Parasail or OpenAI, instead of an engine."""
