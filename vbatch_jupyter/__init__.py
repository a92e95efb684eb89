"""DataFrames through OpenAI batches on a vLLM engine that lives in the notebook's kernel."""
