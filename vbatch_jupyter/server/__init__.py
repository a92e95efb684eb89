"""The Jupyter server extension: OpenAI's endpoints over the store, and over the engines that kernels hold."""
