"""Where a batch runs that runs at no engine here: a batch service, such as Parasail or OpenAI."""
