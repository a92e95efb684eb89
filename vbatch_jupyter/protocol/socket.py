"""What a kernel and the Jupyter server have agreed on, who share no other code: names that both must spell alike."""

SECRET_HEADER = "x-vbatch-secret"  # noqa: S105 - its name
"""The header that carries the secret of a kernel's socket."""

NAME_VARIABLE = "VBATCH_ENGINE_NAME"
"""Set by a server for a kernel that it starts: the name of the engine that the kernel is to hold."""
