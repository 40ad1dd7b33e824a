"""The files of models on this machine, and the models that have a name. Nothing here opens more than headers."""
